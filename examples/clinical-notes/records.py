"""Synthetic records of visits, and a check of the notes that a teacher writes for them.

`draw`, `draw_unseen` and `check` are named by `notes.toml`. Names, drugs and complaints are those
of training, or made up; the references have others (`references.py`). Doses are plausible, not
advice.
"""

from __future__ import annotations

import json
import random
import re
from datetime import date, timedelta
from typing import Any, NamedTuple

Record = dict[str, Any]


class Case(NamedTuple):
    """A complaint with diagnoses and drugs that may go with it."""

    complaint: str
    diagnoses: tuple[str, ...]
    drugs: tuple[tuple[str, str, int], ...]
    """Drug, dose and times a day."""


class Vocabulary(NamedTuple):
    """What records are drawn from."""

    women: tuple[str, ...]
    men: tuple[str, ...]
    surnames: tuple[str, ...]
    cases: tuple[Case, ...]
    allergies: tuple[str, ...]
    stopped: tuple[str, ...]
    first_day: date


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text."""
    return tuple(text.split())


def cases(lines: str) -> tuple[Case, ...]:
    """Read lines such as `complaint: diagnosis, diagnosis: drug 400 mg 3, drug 1 g 4`."""
    read = []
    for line in lines.strip().splitlines():
        complaint, diagnoses, drugs = (part.strip() for part in line.split(":"))
        parsed = []
        for drug in drugs.split(", "):
            *name, number, unit, times = drug.split()
            parsed.append((" ".join(name), f"{number} {unit}", int(times)))
        read.append(Case(complaint, tuple(diagnoses.split(", ")), tuple(parsed)))
    return tuple(read)


TRAINING = Vocabulary(
    women=words(
        "Anna Clara Maria Sofia Emma Olivia Grace Hannah Laura Julia Nora Elena Ruth Alice Martha "
        "Irene Diana Fatima Aisha Leila Mei Yuki Priya Anjali Rosa Carmen Lucia Ingrid Astrid "
        "Katarina Agnes Beatrice Joan Doris Edith"
    ),
    men=words(
        "Peter Paul James John Robert Thomas Daniel David Michael Samuel Henry Walter George Frank "
        "Oscar Hugo Victor Marco Luca Carlos Diego Ahmed Omar Hassan Chen Kenji Raj Arjun Sven "
        "Lars Erik Ivan Anton Felix Arthur"
    ),
    surnames=words(
        "Novak Miller Fischer Rossi Garcia Silva Andersen Larsen Kowalski Meyer Weber Dubois "
        "Moreau Bianchi Costa Santos Ferrari Brown Taylor Wilson Clark Walker Young Harris King "
        "Wright Scott Green Baker Adams Nelson Hill Campbell Mitchell Carter Evans Turner Parker "
        "Collins Murphy Bailey Cooper Ward Cox Khan Ali Hussain Patel Singh Gupta Kim Park Tanaka "
        "Sato Nguyen Tran Ivanov Petrov Horvath Nagy Popescu Olsen Berg Lindgren Virtanen Okafor "
        "Mensah Abebe Haddad Cohen"
    ),
    cases=cases("""
sore throat: pharyngitis, tonsillitis: amoxicillin 500 mg 3, ibuprofen 400 mg 3, paracetamol 1 g 4
back pain: lumbar strain, sciatica: ibuprofen 600 mg 3, naproxen 500 mg 2, diclofenac 50 mg 3
ear pain: otitis media, otitis externa: amoxicillin 750 mg 2, paracetamol 500 mg 4
dizziness: vertigo, orthostatic hypotension: betahistine 16 mg 3, meclizine 25 mg 2
ankle swelling: heart failure, venous insufficiency: furosemide 40 mg 1, torsemide 10 mg 1
heartburn: reflux disease, gastritis: omeprazole 20 mg 1, famotidine 20 mg 2
abdominal pain: gastritis, irritable bowel syndrome: pantoprazole 40 mg 1, mebeverine 135 mg 3
palpitations: atrial fibrillation, hyperthyroidism: metoprolol 50 mg 2, bisoprolol 2.5 mg 1
fatigue: iron deficiency anemia, hypothyroidism: levothyroxine 75 mcg 1, ferrous sulfate 325 mg 1
knee pain: osteoarthritis, gout: naproxen 250 mg 2, colchicine 0.5 mg 2, celecoxib 200 mg 1
burning urination: cystitis, urinary tract infection: nitrofurantoin 100 mg 2, fosfomycin 3 g 1
wheezing: asthma, bronchitis: albuterol 2.5 mg 4, montelukast 10 mg 1, prednisone 40 mg 1
shortness of breath: COPD exacerbation, pneumonia: doxycycline 100 mg 2, prednisone 30 mg 1
diarrhea: gastroenteritis, colitis: loperamide 2 mg 3, metronidazole 500 mg 3
constipation: functional constipation, medication side effect: lactulose 15 mL 2, senna 15 mg 1
blocked nose: sinusitis, allergic rhinitis: loratadine 10 mg 1, cetirizine 10 mg 1
insomnia: adjustment disorder, primary insomnia: melatonin 2 mg 1, mirtazapine 15 mg 1
low mood: depression, dysthymia: sertraline 50 mg 1, citalopram 20 mg 1
itching: eczema, scabies: cetirizine 10 mg 1, hydroxyzine 25 mg 3
thirst: type 2 diabetes, hyperglycemia: metformin 850 mg 2, gliclazide 30 mg 1
blurred vision: cataract, diabetic retinopathy: metformin 1 g 2, acetazolamide 250 mg 2
leg cramps: hypokalemia, restless legs syndrome: ropinirole 0.25 mg 1, magnesium citrate 300 mg 1
shoulder pain: bursitis, frozen shoulder: diclofenac 75 mg 2, tramadol 50 mg 3
nosebleeds: hypertension, anticoagulant effect: amlodipine 5 mg 1, lisinopril 10 mg 1
"""),
    allergies=("penicillin", "latex", "aspirin", "peanuts", "sulfa drugs", "iodine", "eggs"),
    stopped=("lisinopril", "simvastatin", "warfarin", "aspirin", "clopidogrel", "amlodipine"),
    first_day=date(2022, 1, 3),
)
PLACES = (
    "ankle", "arm", "big toe", "buttock", "cheek", "chin", "ear lobe", "elbow", "eyelid", "foot",
    "forehead", "groin", "heel", "instep", "left side", "lip", "nail", "nipple", "palm", "rib",
    "scalp", "shin", "spine", "tailbone", "temple", "thigh", "thumb", "tongue", "waist", "wrist",
)  # fmt: skip
TROUBLES = (
    "pain", "swelling", "stiffness", "numbness", "weakness", "redness", "cramps", "bruising",
    "tenderness", "tingling", "twitching", "blisters", "bleeding", "lump", "ulcer", "injury",
)  # fmt: skip
CONDITIONS = (
    "sprain", "strain", "tendinitis", "fracture", "infection", "abscess", "contusion", "cyst",
    "neuralgia", "inflammation", "syndrome", "dermatitis", "neuropathy", "fibroma", "dystonia",
)  # fmt: skip
ONSETS = words("b c d f g h k l m n p r s t v z br cl dr fl gr pl qu sk st tr th ph")
VOWELS = words("a e i o u a e i o ia eo y")
DRUG_ENDS = words(
    "ol in ine ide one ate am il an ex um azole idine pril tan mab cin xone"  # codespell:ignore
)
DOSES = (1, 1.5, 2, 2.5, 4, 5, 7.5, 10, 12.5, 15, 20, 25, 30, 40, 50, 75, 80, 100, 120, 150, 200,
         250, 300, 325, 400, 500, 600, 750, 800)  # fmt: skip
NAME_ENDS = words("a e i o y en ia an el is us ov sson ski ez ini er ley ton ard")
NUM_DAYS = 1000
PERCENT = {
    "days": 60, "wt": 25, "temp": 50, "bp": 50, "hr": 45, "rr": 20, "spo2": 30, "glu": 20,
    "crp": 25, "hb": 20, "fever": 25, "cough": 25, "vomiting": 25, "chest_pain": 25,
    "headache": 25, "rash": 25, "smoker": 25, "allergy": 40, "for_days": 40, "stopped": 15,
    "dx": 50, "review": 40,
}  # fmt: skip
"""How often a field is in a record; the others always are."""
FIELDS = (
    "name", "age", "sex", "date", "complaint", "days", "wt", "temp", "bp", "hr", "rr", "spo2",
    "glu", "crp", "hb", "fever", "cough", "vomiting", "chest_pain", "headache", "rash", "smoker",
    "allergy", "drug", "dose", "per_day", "for_days", "stopped", "dx", "review",
)  # fmt: skip
SYMPTOMS = ("fever", "cough", "vomiting", "chest_pain", "headache", "rash")


def draw(draw: random.Random) -> str:
    """Return a record of the training vocabulary as compact JSON."""
    return text_of(draw_record(draw, TRAINING))


def draw_unseen(draw: random.Random) -> str:
    """Return a record with made-up words: a student cannot remember them, so it learns to copy."""
    return text_of(draw_record(draw, _made_up(draw)))


def _made_up(draw: random.Random) -> Vocabulary:
    """Return the words of one record, each made up or put together half of the time."""
    real = draw.choice(TRAINING.cases)
    place = draw.choice(PLACES)
    complaints = (real.complaint, f"{place} {draw.choice(TROUBLES)}", _word(draw, "ia"))
    diagnoses = (
        draw.choice(real.diagnoses), f"{place} {draw.choice(CONDITIONS)}",
        _word(draw, "itis", "osis", "oma"), f"{_word(draw, *NAME_ENDS)} disease",
    )  # fmt: skip
    drugs = [_word(draw, *DRUG_ENDS) for _ in range(4)]
    dose = f"{draw.choice(DOSES)} {draw.choice(('mg', 'mg', 'mg', 'mcg', 'g', 'mL'))}"
    return Vocabulary(
        women=(draw.choice(TRAINING.women), _word(draw, *NAME_ENDS).capitalize()),
        men=(draw.choice(TRAINING.men), _word(draw, *NAME_ENDS).capitalize()),
        surnames=(draw.choice(TRAINING.surnames), _word(draw, *NAME_ENDS).capitalize()),
        cases=(
            Case(
                draw.choice(complaints),
                (draw.choice(diagnoses),),
                ((drugs[0], dose, draw.randint(1, 4)), draw.choice(real.drugs)),
            ),
        ),
        allergies=(draw.choice(TRAINING.allergies), drugs[1]),
        stopped=(draw.choice(TRAINING.stopped), *drugs[2:]),
        first_day=TRAINING.first_day,
    )


def _word(draw: random.Random, *ends: str) -> str:
    """Return a word of one to three made-up syllables and an ending."""
    count = draw.choice((1, 2, 2, 2, 3))
    start = "".join(draw.choice(ONSETS) + draw.choice(VOWELS) for _ in range(count))
    return start + draw.choice(ONSETS) + draw.choice(ends)


def text_of(record: Record) -> str:
    """Return a record as compact JSON, its fields in their order."""
    return json.dumps({key: record[key] for key in FIELDS if key in record}, separators=(",", ":"))


def draw_record(draw: random.Random, vocabulary: Vocabulary) -> Record:
    """Return a record; what it leaves out, its note must not say."""
    sex = draw.choice(("female", "male"))
    case = draw.choice(vocabulary.cases)
    drug, dose, per_day = draw.choice(case.drugs)
    day = vocabulary.first_day + timedelta(days=draw.randrange(NUM_DAYS))
    first = draw.choice(vocabulary.women if sex == "female" else vocabulary.men)
    always = {
        "name": f"{first} {draw.choice(vocabulary.surnames)}",
        "age": draw.randint(18, 89),
        "sex": sex,
        "date": day.isoformat(),
        "complaint": case.complaint,
        "drug": drug,
        "dose": dose,
        "per_day": per_day,
    }
    fever = draw.random() < 0.35
    others = {
        "days": draw.choice((2, 3, 4, 5, 6, 7, 10, 14, 21)),
        "wt": f"{draw.randint(48, 115)} kg"
        if draw.random() < 0.7
        else f"{draw.randint(105, 250)} lb",
        "temp": _temperature(draw, fever=fever),
        "bp": f"{draw.randint(95, 178)}/{draw.randint(55, 99)}",
        "hr": draw.randint(52, 118),
        "rr": draw.randint(12, 26),
        "spo2": draw.randint(89, 99),
        "glu": f"{draw.randint(42, 148) / 10} mmol/L"
        if draw.random() < 0.6
        else f"{draw.randint(76, 260)} mg/dL",
        "crp": f"{draw.randint(2, 140)} mg/L",
        "hb": f"{draw.randint(82, 165) / 10} g/dL",
        "fever": fever,
        **{symptom: draw.random() < 0.45 for symptom in SYMPTOMS[1:]},
        "smoker": draw.random() < 0.4,
        "allergy": "none" if draw.random() < 0.6 else draw.choice(vocabulary.allergies),
        "for_days": draw.choice((3, 5, 7, 10, 14)),
        "stopped": draw.choice([one for one in vocabulary.stopped if one != drug]),
        "dx": draw.choice(case.diagnoses),
        "review": draw.choice((2, 3, 5, 7, 10, 14, 28)),
    }
    if case.complaint == "wheezing" or "cough" in case.complaint:
        others.pop("cough")
    return always | {key: one for key, one in others.items() if draw.randrange(100) < PERCENT[key]}


def _temperature(draw: random.Random, *, fever: bool) -> str:
    celsius = draw.randint(381, 398) / 10 if fever else draw.randint(362, 374) / 10
    return f"{celsius} C" if draw.random() < 0.75 else f"{round(celsius * 1.8 + 32, 1)} F"


TERMS = {
    "fever": r"fevers?|febrile|pyrexial?|feverish",
    "cough": r"cough\w*",
    "vomiting": r"vomit\w*|emesis",
    "chest_pain": r"chest (?:pains?|discomfort|tightness)",
    "headache": r"headaches?",
    "rash": r"rash(?:es)?",
    "smoker": r"smok\w*|tobacco|cigarettes?",
}
DENIALS = {"fever": r"\bafebrile\b|\bapyrexial\b", "smoker": r"\bnonsmok\w*"}
NEGATION = re.compile(
    r"\b(?:no|not|denie[sd]|denying|without|negative for|absence of|never|nor|neither|non|free of|"
    r"doesn['\u2019]?t|isn['\u2019]?t|rules? out)\b|\(-\)"
)
END_OF_NEGATION = re.compile(
    r"\b(?:but|however|although|reports?|reported|reporting|has|had|positive|presents?|admits|"
    r"complains?|experiencing|and (?:is|has) an?)\b|\(\+\)"
)
DENIED_AFTER = re.compile(
    r"^\s*(?:[:=(]\s*|(?:was|is|were|are)\s+|(?=denied|absent))"
    r"(?:no|none|not|denied|absent|negative|never|nil)\b"
)
SENTENCE_END = re.compile(r"(?<!\d)[.;:\n]|[.;](?=\s)")
NO_ALLERGY = re.compile(
    r"nkda|nka\b|\b(?:no|denies|without|nil)\b[^.;]{0,30}allerg|allerg\w*\W{1,3}(?:none|no|nil)\b|"
    r"not allergic|non-allergic"
)
NUMBER = {word: number for number, word in enumerate(
    words("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen")
)}  # fmt: skip
DURATION = re.compile(rf"\b(\d+|{'|'.join(NUMBER)})[ -]?(days?|d|weeks?|wks?)\b")
ABSENT = {
    "allergy": r"allerg|nkda",
    "stopped": r"\b(?:stop(?:ped)?|discontinued?|ceased?|withdrawn?|held|halted)\b",
    "dx": r"diagnos|impression|assessment|consistent with|likely|suggest(?:s|ive|ing)\b|due to",
    "review": r"(?:follow[- ]?up|review|return|recheck|again|comes? back|back in)\b[^.\n]{0,30}\d",
    "glu": r"gluc\w*|\bsugar|hyperglyc",
    "temp": r"temperature|\btemp\b|\d\.\d ?\u00b0? ?[cf]\b",
    "bp": r"blood pressure|\bbp\b|hypertensive",
    "hr": r"heart rate|pulse|\bhr\b|\bbpm\b",
    "rr": r"respirat\w+ rate|respirations|\bresps?\b|\brr\b|breaths",
    "spo2": r"saturat|\bo2|\bsats?\b|spo2|oxygen",
    "wt": r"weigh",
    "crp": r"\bcrp\b|c-reactive",
    "hb": r"h(?:a)?emoglobin|\bhb\b",
}
"""Words that a note has only with their field."""
OTHER_SEX = {"female": r"\b(?:he|his|him|mr)\b", "male": r"\b(?:she|hers?|mrs|ms)\b"}
NAMED = ("hr", "rr", "spo2", "crp", "hb", "glu")
"""Fields whose words have to be in the note, since their values alone say too little."""


def check(text: str, known: str | None) -> str | None:
    """Return why a note does not say exactly what its record says; None when it does.

    Values themselves are read by the line's own checks; this one reads what is denied, and finds
    what was invented.
    """
    record: Record = json.loads(known or "{}")
    found = "\n".join(" ".join(line.split()) for line in text.casefold().splitlines())
    if (reason := _misread(found, record)) is not None:
        return reason
    for field, terms in TERMS.items():
        said = _said(found, field)
        if field not in record and said is not None and terms not in record.get("complaint", ""):
            return f"mentions {field}, which the record does not have"
        if field in record and said is not record[field]:
            return f"{field} is {record[field]} and read as {said}"
    rest = found
    for field in ("complaint", "dx"):
        rest = rest.replace(str(record.get(field, " ")).casefold(), " ")
    for field, marks in ABSENT.items():
        is_there = re.search(marks, rest) is not None
        if field not in record and is_there:
            return f"mentions {field}, which the record does not have"
        if field in record and field in NAMED and not is_there:
            return f"{field} is not named"
    return _other_drug(found, record) or _other_duration(found, record) or _allergy(found, record)


def _misread(text: str, record: Record) -> str | None:
    if re.search(r"\b(?:true|false|null)\b|[{}\[\]_]", text):
        return "reads like a record"
    if "date" in record and record["date"][:4] not in text:
        return "has no year"
    if "sex" in record and re.search(OTHER_SEX[record["sex"]], text):
        return f"the patient is {record['sex']}, and it speaks of another sex"
    return None


def _said(text: str, field: str) -> bool | None:
    """Return whether a symptom is affirmed; None when it is not there, or said in two ways."""
    seen = set()
    if field in DENIALS and re.search(DENIALS[field], text):
        seen.add(False)
    for match in re.finditer(rf"\b(?:{TERMS[field]})\b", text):
        starts = [end.end() for end in SENTENCE_END.finditer(text[: match.start()])]
        before = text[starts[-1] if starts else 0 : match.start()]
        ends = [end.end() for end in END_OF_NEGATION.finditer(before)]
        denied = NEGATION.search(before, ends[-1] if ends else 0) is not None
        seen.add(not (denied or DENIED_AFTER.search(text[match.end() :])))
    return seen.pop() if len(seen) == 1 else None


def _other_drug(text: str, record: Record) -> str | None:
    own = " ".join(str(record.get(one, "")) for one in ("drug", "stopped", "allergy")).casefold()
    known = {drug for case in TRAINING.cases for drug, _, _ in case.drugs} | {*TRAINING.stopped}
    other = sorted(one for one in known if one in text and one not in own)
    return f"mentions {other[0]}, which the record does not have" if other else None


def _other_duration(text: str, record: Record) -> str | None:
    own = {record.get(one) for one in ("days", "for_days", "review")}
    for number, unit in DURATION.findall(text):
        days = (int(number) if number.isdigit() else NUMBER[number]) * (7 if unit[0] == "w" else 1)
        if days not in own:
            return f"mentions {number} {unit}, which the record does not have"
    return None


def _allergy(text: str, record: Record) -> str | None:
    if record.get("allergy") == "none" and not NO_ALLERGY.search(text):
        return "does not say that no allergy is known"
    if record.get("allergy", "none") != "none" and "allerg" not in text:
        return "does not name the allergy as one"
    if "stopped" in record and not re.search(ABSENT["stopped"], text):
        return "does not say what was stopped"
    return None
