"""Writes `references.jsonl`: 300 notes to measure on, from templates that no training note has.

Run `python examples/clinical-notes/references.py` to write them again; the same seed gives the same
notes. `--calibrate N` prints N notes of other templates instead, to choose settings on.

A template is a list of clauses. A clause is a tuple of alternatives: the first one whose facts the
record has is written; none, if it has them for none of them.
"""

from __future__ import annotations

import argparse
import json
import random
import string
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from records import SYMPTOMS, Record, Vocabulary, cases, draw_record, text_of, words

HERE = Path(__file__).resolve().parent

NUM_REFERENCES = 300
SEED = 20250
TEST = Vocabulary(
    women=words(
        "Brigitte Dorothea Esther Francesca Greta Heidi Imogen Jasmine Kirsten Lorena Miriam Noemi "
        "Ottilie Paloma Ramona Saskia Tamara Ulrike Vanessa Wilma Xenia Yolanda Zeynep Thandiwe"
    ),
    men=words(
        "Bernard Cedric Desmond Edgar Fabian Gustav Harald Ignacio Joaquin Konrad Leopold Magnus "
        "Norbert Orlando Philip Quentin Rafael Stefan Tobias Ulrich Vincent Wendell Yusuf Zoltan"
    ),
    surnames=words(
        "Abernathy Blackwood Castellano Dimitriou Eriksen Fairchild Goncalves Hargreaves Iversen "
        "Jankowski Kavanagh Lindholm Montgomery Nakamura Oyelaran Pemberton Quintero Rosenthal "
        "Stavros Thorvaldsen Underhill Vasquez Whitaker Yilmaz Zimmermann Achterberg Brennan "
        "Chaudhry Delacroix Eastwood Fitzgerald Grunwald"
    ),
    cases=cases("""
hoarseness: laryngitis, vocal cord nodules: ketoprofen 100 mg 2, dexamethasone 4 mg 1
neck pain: cervical strain, whiplash injury: meloxicam 15 mg 1, baclofen 10 mg 3
jaw pain: dental abscess, temporomandibular disorder: clindamycin 300 mg 4, etoricoxib 90 mg 1
calf swelling: deep vein thrombosis, cellulitis: apixaban 10 mg 2, cefadroxil 1 g 2
hand tremor: essential tremor, thyrotoxicosis: propranolol 20 mg 2, carbimazole 15 mg 1
bloating: lactose intolerance, dyspepsia: simethicone 80 mg 4, esomeprazole 40 mg 1
flank pain: kidney stone, pyelonephritis: ciprofloxacin 500 mg 2, tamsulosin 0.4 mg 1
red eye: uveitis, episcleritis: flurbiprofen 50 mg 2, valaciclovir 1 g 3
night sweats: tuberculosis, menopause: isoniazid 300 mg 1, clonidine 50 mcg 2
numb fingers: carpal tunnel syndrome, polyneuropathy: gabapentin 100 mg 3, pregabalin 75 mg 2
swollen gums: gingivitis, periodontitis: phenoxymethylpenicillin 250 mg 4, spiramycin 1.5 g 2
hives: urticaria, food allergy reaction: fexofenadine 180 mg 1, bilastine 20 mg 1
hip pain: trochanteric bursitis, hip osteoarthritis: nabumetone 500 mg 2, etodolac 300 mg 2
frequent urination: overactive bladder, prostate enlargement: solifenacin 5 mg 1, finasteride 5 mg 1
panic attacks: panic disorder, generalized anxiety: escitalopram 5 mg 1, buspirone 7.5 mg 2
nausea: migraine, gastroparesis: domperidone 10 mg 3, ondansetron 8 mg 2
shingles pain: herpes zoster, postherpetic neuralgia: famciclovir 500 mg 3, amitriptyline 25 mg 1
pale skin: folate deficiency, chronic kidney disease: folic acid 5 mg 1, cyanocobalamin 50 mcg 1
"""),
    allergies=("codeine", "cephalosporins", "shellfish", "nickel", "contrast dye", "soy"),
    stopped=("ramipril", "atorvastatin", "digoxin", "quetiapine", "spironolactone", "rosuvastatin"),
    first_day=date(2025, 1, 6),
)

Clause = tuple[str, ...]
Template = Sequence[Clause]

WARD_1: Template = (
    ("{last}, {first}. {age}{S}. Seen {iso}.",),
    ("CC: {complaint} x {days} days.", "CC: {complaint}."),
    ("(+) {pos_slash}.",), ("(-) {neg_slash}.",), ("Smoker.",  "Non-smoker.",),
    ("Obs: T {temp_short}, BP {bp}.", "Obs: T {temp_short}.", "Obs: BP {bp}."),
    ("HR {hr}.",), ("RR {rr}.",), ("Sats {spo2}% RA.",), ("Wt {wt_close}.",),
    ("Hb {hb}.",), ("CRP {crp}.",), ("Gluc {glu}.",), ("NKDA.", "ALLERGY: {allergy}."),
    ("Imp: {dx}.",),
    ("Rx {drug} {dose_close} x{per_day}/day for {for_days} days.",
     "Rx {drug} {dose_close} x{per_day}/day."),
    ("{stopped} stopped.",), ("RV {review} days.",),
)  # fmt: skip
WARD_2: Template = (
    ("{dotted} - {full}, {noun} aged {age}",),
    ("\n- {complaint}, day {days}", "\n- {complaint}"),
    ("\n- vitals: {hr} bpm, {bp} mmHg", "\n- vitals: pulse {hr}", "\n- vitals: {bp} mmHg"),
    ("\n- resps {rr}",), ("\n- O2 sat {spo2} %",), ("\n- {temp_long}",),
    ("\n- {wt} on the scales",),
    ("\n- has {pos}",), ("\n- no {neg}",), ("\n- still smoking", "\n- does not smoke"),
    ("\n- drug allergies: nil", "\n- allergic to {allergy}"),
    ("\n- bloods: CRP {crp}",), ("\n- glucose {glu}",), ("\n- hemoglobin {hb}",),
    ("\n- working diagnosis {dx}",),
    ("\n- start {drug} {dose} {times}, {for_days}-day course", "\n- start {drug} {dose} {times}"),
    ("\n- hold {stopped} for good (stopped)",), ("\n- see again in {review} days",),
)  # fmt: skip
LETTER_1: Template = (
    ("Dear colleague, thank you for seeing {title} {full} ({age}), whom I met on {long}.",),
    ("{He} has been troubled by {complaint} for {days} days.", "{He} is troubled by {complaint}."),
    ("There is also {pos}.",), ("{He} denies {neg}.",),
    ("{He} smokes.", "{He} has never smoked."),
    ("{He} is allergic to {allergy}.", "{He} has no known allergies."),
    ("On examination the blood pressure was {bp} mmHg.",), ("{His} pulse was {hr} a minute.",),
    ("{He} was breathing at {rr} a minute (respiratory rate).",),
    ("Oxygen saturation was {spo2} percent.",), ("{His} temperature was {temp_long}.",),
    ("{He} weighs {wt}.",), ("Tests: hemoglobin {hb}.",), ("C-reactive protein was {crp}.",),
    ("The glucose was {glu}.",), ("I believe this is {dx}.",),
    ("I prescribed {drug}, {dose} {times} for {for_days} days.",
     "I prescribed {drug}, {dose} {times}."),
    ("{stopped} has been discontinued.",), ("I will review {him} in {review} days. Kind regards",
     "Kind regards"),
)  # fmt: skip
LETTER_2: Template = (
    ("Re: {full}, {sex}, {age} years. Clinic of {us}.",),
    ("Thank you for referring this patient with {complaint}.",),
    ("It began {days} days ago.",),
    ("I noted {pos}, but no {neg}.", "I noted {pos}.", "I noted no {neg}."),
    ("The patient is a current smoker.", "The patient is a non-smoker."),
    ("Allergies: {allergy}.", "No allergies are known."),
    ("Measurements: weight {wt}.",), ("Temperature {temp_long}.",), ("Blood pressure {bp}.",),
    ("Heart rate {hr}.",), ("Respiratory rate {rr}.",), ("SpO2 {spo2}%.",),
    ("Laboratory: CRP {crp}.",), ("Hb {hb}.",), ("Blood glucose {glu}.",),
    ("My diagnosis is {dx}.",), ("{stopped} was withdrawn.",),
    ("Treatment is now {drug} {dose}, {times}, over {for_days} days.",
     "Treatment is now {drug} {dose}, {times}."),
    ("Follow-up: {review} days.",),
)  # fmt: skip
DICTATED_1: Template = (
    ("This is a note on {full}, a {age} year old {noun}, dictated on the {ordinal}.",),
    ("{He} came in because of {complaint} which started {days} days ago.",
     "{He} came in because of {complaint}."),
    ("{He} tells me about {pos} as well.",), ("No {neg}, {he} says.",),
    ("{He} is a smoker.", "{He} does not smoke."),
    ("Allergy to {allergy}.", "No allergies that {he} knows of."),
    ("Pressure is {bp_over}, that is blood pressure.",), ("Heart rate {hr}.",),
    ("Respiratory rate {rr}.",), ("Saturation {spo2} percent.",),
    ("Temperature of {temp_words}.",), ("Weight {wt_words}.",),
    ("Hemoglobin came back at {hb}.",), ("CRP at {crp}.",), ("Sugar, so glucose, at {glu}.",),
    ("I would call it {dx}.",),
    ("Plan is {drug}, {dose_words}, {times}, for {for_days} days.",
     "Plan is {drug}, {dose_words}, {times}."),
    ("Please take {stopped} off the list, we stopped it.",), ("Back here in {review} days. End.",),
)  # fmt: skip
DICTATED_2: Template = (
    ("Okay so, {title} {last}, first name {first}, {age}, visit of {long}, main problem"
     " {complaint}, going on {days} days now.",
     "Okay so, {title} {last}, first name {first}, {age}, visit of {long}, main problem"
     " {complaint}."),
    ("Yes to {pos}.",), ("No to {neg}.",), ("Smoker: yes.", "Smoker: no."),
    ("Allergic to {allergy}, please highlight.", "Not allergic to anything."),
    ("Let me see, {temp_long} for the temperature,",), ("heart rate {hr},",),
    ("blood pressure {bp_over},",), ("oxygen {spo2} percent,",), ("respirations {rr},",),
    ("weight {wt}.",), ("Labs, CRP {crp}.",), ("Labs, glucose {glu}.",), ("Labs, Hb {hb}.",),
    ("So, {dx}.",),
    ("{drug} please, {dose_words} {times}, {for_days} days.",
     "{drug} please, {dose_words} {times}."),
    ("And stop the {stopped}.",), ("Recheck in {review} days.",),
)  # fmt: skip
SOAP_1: Template = (
    ("{full} | {age} y | {sex} | {iso}\nS: {complaint}, onset {days} days ago.",
     "{full} | {age} y | {sex} | {iso}\nS: {complaint}."),
    ("Endorses {pos}.",), ("Denies {neg}.",), ("Smokes.", "Never smoker."),
    ("Allergies: {allergy}.", "Allergies: none known."),
    ("\nO: BP {bp}", "\nO: vitals below"), ("HR {hr}",), ("RR {rr}",), ("SpO2 {spo2}%",),
    ("T {temp_short}",), ("weight {wt}",), ("CRP {crp}",), ("Hb {hb}",), ("glucose {glu}",),
    ("\nA: {dx}.",),
    ("\nP: {drug} {dose} {per_day}x daily x {for_days} days.",
     "\nP: {drug} {dose} {per_day}x daily."),
    ("D/C {stopped} (discontinued).",), ("F/u {review} days.",),
)  # fmt: skip
SOAP_2: Template = (
    ("Subjective - {noun}, {age}, {full}, seen on {us}.",),
    ("{complaint_cap} over the past {days} days.", "{complaint_cap}."),
    ("Positive for {pos}.",), ("Negative for {neg}.",),
    ("Active smoker.", "Not a smoker."), ("{allergy_cap} allergy.", "No drug allergies."),
    ("Objective - pulse {hr}/min;",), ("BP {bp} mmHg;",), ("respiratory rate {rr}/min;",),
    ("saturating at {spo2}%;",), ("temperature {temp_long};",), ("body weight {wt_close};",),
    ("CRP {crp};",), ("hemoglobin {hb};",), ("glucose {glu};",),
    ("Assessment - {dx}.",),
    ("Plan - {drug}: {dose_close} {times} for {for_days} days;",
     "Plan - {drug}: {dose_close} {times};"),
    ("discontinue {stopped};",), ("return in {review} days.",),
)  # fmt: skip
TEMPLATES = (WARD_1, WARD_2, LETTER_1, LETTER_2, DICTATED_1, DICTATED_2, SOAP_1, SOAP_2)

CALIBRATION: tuple[Template, ...] = (
    (
        ("{iso}: {full} ({noun}, {age}) attended with {complaint}.",), ("Duration {days} days.",),
        ("Complains of {pos}.",), ("No {neg}.",), ("Smoker.", "Nonsmoker."),
        ("Allergies: {allergy}.", "No known allergies."), ("BP {bp},",), ("pulse {hr},",),
        ("RR {rr},",), ("SpO2 {spo2}%,",), ("temperature {temp_short},",), ("weight {wt}.",),
        ("CRP {crp}.",), ("Hemoglobin {hb}.",), ("Glucose {glu}.",), ("Diagnosis: {dx}.",),
        ("Given {drug} {dose} {times} for {for_days} days.", "Given {drug} {dose} {times}."),
        ("Stopped {stopped}.",), ("Review in {review} days.",),
    ),
    (
        ("I saw {title} {full}, {age}, on {long} for {complaint}.",),
        ("This has lasted {days} days.",), ("{He} also has {pos}.",), ("There is no {neg}.",),
        ("{He} smokes.", "{He} is not a smoker."),
        ("{He} reports an allergy to {allergy}.", "{He} has no allergies."),
        ("Blood pressure {bp} mmHg.",), ("Heart rate {hr}.",), ("Respiratory rate {rr}.",),
        ("Oxygen saturation {spo2}%.",), ("Temperature {temp_long}.",), ("{He} weighs {wt}.",),
        ("CRP {crp}.",), ("Hb {hb}.",), ("Blood sugar (glucose) {glu}.",),
        ("This looks like {dx}.",), ("{drug} {dose} {times}.",), ("It runs for {for_days} days.",),
        ("We discontinued {stopped}.",), ("{He} returns in {review} days.",),
    ),
)  # fmt: skip
ALTERNATIVES = {"smoker": ("smok",), "allergy": ("allerg", "nkda")}
TIMES = {1: ("once daily", "once a day"), 2: ("twice daily", "twice a day"),
         3: ("three times daily", "three times a day"),
         4: ("four times daily", "four times a day")}  # fmt: skip
UNIT_NAMES = {"mg": "milligrams", "mcg": "micrograms", "g": "grams", "mL": "milliliters",
              "kg": "kilograms", "lb": "pounds"}  # fmt: skip


def facts_of(record: Record, draw: random.Random) -> dict[str, str]:
    """Return the words for a record's fields, in several forms."""
    facts = {key: str(one) for key, one in record.items()}
    first, last = record["name"].split(" ", 1)
    is_female = record["sex"] == "female"
    day = date.fromisoformat(record["date"])
    month = day.strftime("%B")
    facts |= {
        "first": first, "last": last, "full": record["name"], "S": "F" if is_female else "M",
        "noun": "woman" if is_female else "man", "title": "Ms." if is_female else "Mr.",
        "he": "she" if is_female else "he", "He": "She" if is_female else "He",
        "him": "her" if is_female else "him", "His": "Her" if is_female else "His",
        "iso": day.isoformat(), "dotted": f"{day.day:02}.{day.month:02}.{day.year}",
        "long": f"{day.day} {month} {day.year}", "us": f"{month} {day.day}, {day.year}",
        "ordinal": f"{_ordinal(day.day)} of {month} {day.year}",
        "times": draw.choice(TIMES[record["per_day"]]),
        "complaint_cap": record["complaint"].capitalize(),
    }  # fmt: skip
    for field in ("dose", "wt"):
        if field in record:
            number, unit = record[field].split()
            facts |= {
                f"{field}_close": number + unit,
                f"{field}_words": f"{number} {UNIT_NAMES[unit]}",
            }
    if "temp" in record:
        number, unit = record["temp"].split()
        scale = "Celsius" if unit == "C" else "Fahrenheit"
        facts |= {"temp_short": number + unit, "temp_long": f"{number} \u00b0{unit}",
                  "temp_words": f"{number} degrees {scale}"}  # fmt: skip
    if "bp" in record:
        facts["bp_over"] = record["bp"].replace("/", " over ")
    if "allergy" in record:
        facts["allergy_cap"] = record["allergy"].capitalize()
    return facts | _symptoms(record)


def _symptoms(record: Record) -> dict[str, str]:
    facts = {}
    for name, wanted, joint in (("pos", True, "and"), ("neg", False, "or")):
        has = [one.replace("_", " ") for one in SYMPTOMS if record.get(one) is wanted]
        if has:
            listed = f"{', '.join(has[:-1])} {joint} {has[-1]}" if has[1:] else has[0]
            facts |= {name: listed, f"{name}_slash": " / ".join(has)}
    return facts


def write_note(record: Record, template: Template, draw: random.Random) -> str:
    """Return the note of a record."""
    facts = facts_of(record, draw)
    parts = [_clause(clause, record, facts) for clause in template]
    return " ".join(filter(None, parts)).replace(" \n", "\n").rstrip(",;")


def _clause(clause: Clause, record: Record, facts: dict[str, str]) -> str | None:
    plain = " ".join(clause).casefold()
    for field, marks in ALTERNATIVES.items():
        if any(mark in plain for mark in marks):
            return _one_of_two(clause, record.get(field), facts)
    for text in clause:
        if all(name in facts for _, name, _, _ in string.Formatter().parse(text) if name):
            return text.format(**facts)
    return None


def _one_of_two(clause: Clause, value: object, facts: dict[str, str]) -> str | None:
    """Return the sentence of a field that has one for yes and one for no."""
    if value is None:
        return None
    has_place = [text for text in clause if "{allergy" in text]
    if has_place:
        (other,) = (text for text in clause if text not in has_place)
        return (other if value == "none" else has_place[0]).format(**facts)
    return clause[0 if value else 1].format(**facts)


def _ordinal(day: int) -> str:
    end = "th" if day in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{end}"


def references(count: int, seed: int, templates: Sequence[Template]) -> list[dict[str, str]]:
    """Return rows of notes and records, templates in turn."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        record = draw_record(draw, TEST)
        note = write_note(record, templates[number % len(templates)], draw)
        rows.append({"prompt": note, "answer": text_of(record)})
    return rows


def main() -> None:
    """Write the references, or print notes to calibrate on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calibrate", type=int, metavar="N", default=0)
    count = parser.parse_args().calibrate
    rows = references(
        count or NUM_REFERENCES, SEED + bool(count), CALIBRATION if count else TEMPLATES
    )
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if count:
        sys.stdout.write(lines)
    else:
        (HERE / "references.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
