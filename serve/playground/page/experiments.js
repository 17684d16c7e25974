// The dashboard of live experiments: results, and buttons to stop and resume them.

import { get, post } from "./api.js";
import { button, drawn, element } from "./elements.js";

const POLL_MILLISECONDS = 5000;
/** Below this number of pairs an undecided interval says next to nothing. */
const FEW_PAIRS = 20;
const NONE = "This server runs no experiment; see serve.experiments.";
const STATES = {
  running: "running",
  fallback: "a guardrail was breached: the teacher answers",
  killed: "stopped by hand: the teacher answers",
};
const OUTCOMES = {
  PASS: "PASS: no worse than the teacher by more than the margin",
  FAIL: "FAIL: worse than the teacher by more than the margin",
  INCONCLUSIVE: "INCONCLUSIVE so far: the data allow either",
  INVALID_JUDGE: "INVALID JUDGE: the judge failed its assay",
};

const hint = document.getElementById("experiments-hint");
const list = document.getElementById("experiments");
const cards = new Map();
let timer = null;

/** Start or stop polling the experiments. */
export function watchExperiments(isWatched) {
  clearInterval(timer);
  if (!isWatched) return;
  timer = setInterval(() => document.hidden || refresh(), POLL_MILLISECONDS);
  refresh();
}

async function refresh() {
  try {
    const { data: names } = await get("v1/experiments");
    const states = await Promise.all(names.map((name) => get(path(name))));
    hint.textContent = names.length ? "" : NONE;
    for (const state of states) {
      if (!cards.has(state.name)) cards.set(state.name, new Card(state.name));
      cards.get(state.name).show(state);
    }
    const shown = names.map((name) => cards.get(name).element);
    if (shown.length !== list.children.length) list.replaceChildren(...shown);
  } catch (error) {
    hint.textContent = {
      403: "Results and the kill switch need an administrator's key.",
      404: NONE,
    }[error.status] ?? `These results may be out of date: ${error.message}.`;
    if (error.status in { 403: 1, 404: 1 }) clearInterval(timer);
  }
}

const path = (name) => `v1/experiments/${encodeURIComponent(name)}`;

/** One experiment; elements that can be focused or scrolled are kept between updates. */
class Card {
  constructor(name) {
    this.name = name;
    this.state = element("p", { class: "state", role: "status" });
    this.verdict = element("div");
    this.variants = element("div",
      { class: "wide", tabindex: "0", role: "region", "aria-label": "Variants" });
    this.checks = element("dl", { class: "checks" });
    this.failure = element("p", { class: "notice", role: "alert" });
    this.kill = button("Stop experiment", async () => {
      if (confirm(`Stop ${name}? The teacher then answers all its requests.`)) {
        await this.order("kill");
      }
    }, { class: "danger" });
    this.resume = button("Resume experiment", () => this.order("resume"));
    this.element = element("section", { class: "card", "aria-label": `Experiment ${name}` },
      element("h3", {}, name), this.state, this.verdict, this.variants, this.checks,
      this.failure, this.kill, this.resume);
  }

  async order(what) {
    try {
      await post(`${path(this.name)}/${what}`, {});
      this.failure.textContent = "";
    } catch (error) {
      this.failure.textContent = `Not done: ${error.message}`;
    }
    await refresh();
  }

  show(found) {
    const label = STATES[found.state] ?? found.state;
    if (this.state.textContent !== label) this.state.textContent = label;
    this.state.className = `state ${found.state}`;
    this.kill.hidden = found.state === "killed";
    this.resume.hidden = found.state === "running";
    this.verdict.replaceChildren(...verdict(found.verdict));
    this.variants.replaceChildren(variants(found.variants));
    this.checks.replaceChildren(...checks(found));
  }
}

function verdict(found) {
  if (!found) return [element("p", { class: "muted" }, "No verdict yet: no pair has been judged.")];
  const { outcome, alone, judge, win_rate: rate, lower, upper, margin, alpha, pairs } = found;
  const judged = judge === "votes" ? "blind vote" : "judged pair";
  const counted = `${pairs} ${judged}${pairs === 1 ? "" : "s"}`;
  if (outcome === "INCONCLUSIVE" && pairs < FEW_PAIRS) {
    return [element("p", { class: "outcome" }, `${counted}: too few to tell`)];
  }
  return [
    element("p", { class: `outcome ${outcome}` }, OUTCOMES[outcome] ?? outcome),
    element("p", {}, `The student won ${percent(rate)} of ${counted}; ties count half.`),
    element("figure", {}, interval(found), element("figcaption", { class: "muted" },
      `By judge ${judge}${judge === "votes" ? "" : ", not verified by people's votes"}: ` +
      `the student's win rate over ${pairs} pairs, ties counting half, is ${short(rate)}, between ` +
      `${lower.toFixed(3)} and ${upper.toFixed(3)} at α = ${alpha}, valid at every look. ` +
      `It passes when the whole interval is above the margin, ½ − ${margin}.` +
      `${alone === "PASS" ? " The judge alone would say PASS, which takes people's votes." : ""}` +
      `${recently(found)}${lost(found)}`)),
  ];
}

/** Return a sentence on the newest users. */
function recently({ recent, is_withdrawn: isWithdrawn }) {
  if (recent.win_rate === null) return "";
  const sentence = ` Of the newest ${recent.users} users it is ${short(recent.win_rate)}`;
  return isWithdrawn ? `${sentence}: they contradict the PASS, which is withdrawn.` : `${sentence}.`;
}

/** Return a sentence on pairs lost by failing to answer. */
function lost({ failed, is_withheld: isWithheld }) {
  if (!failed.student && !failed.teacher) return "";
  const sentence = ` Lost by failing to answer: student ${failed.student}, teacher ${failed.teacher}.`;
  return isWithheld ? `${sentence} The teacher failed too often for a PASS.` : sentence;
}

/** Draw the win rate's interval from 0 to 1, with the margin. */
function interval({ win_rate: rate, lower, upper, margin }) {
  const limit = 0.5 - margin;
  const x = (value) => `${(100 * value).toFixed(2)}%`;
  const upright = (value, kind) =>
    drawn("line", { x1: x(value), x2: x(value), y1: 20, y2: 64, class: kind });
  const text = (value, said, placed) => drawn("text", { x: x(value), y: 14, ...placed }, said);
  const ticks = [[0, "0", "start"], [0.5, "½", "middle"], [1, "1", "end"]];
  const label = `Win rate ${short(rate)}, interval ${lower.toFixed(3)} to ${upper.toFixed(3)}, ` +
    `margin at ${limit.toFixed(3)}, parity at 0.5`;
  return drawn("svg", { class: "interval", height: 86, role: "img", "aria-label": label },
    drawn("rect", { x: 0, y: 20, width: x(limit), height: 44, class: "worse" }),
    upright(limit, "limit"),
    upright(0.5, "parity"),
    text(limit, `margin ${limit.toFixed(2)}`, { dx: -4, "text-anchor": "end" }),
    ...ticks.map(([value, said, anchor]) => text(value, said, { y: 80, "text-anchor": anchor })),
    drawn("line", { x1: x(lower), x2: x(upper), y1: 42, y2: 42, class: "bar" }),
    ...(rate === null ? [] : [drawn("circle", { cx: x(rate), cy: 42, r: 6, class: "point" })]));
}

function variants(rows) {
  if (rows.every((row) => !row.exposures)) {
    return element("p", { class: "muted" }, "No request has been answered yet.");
  }
  const total = rows.reduce((sum, row) => sum + row.weight, 0);
  const columns = [
    ["model", (row) => row.model],
    ["share", (row) => percent(row.weight / total)],
    ["exposures", (row) => row.exposures],
    ["users", (row) => row.users],
    ["errors", (row) => `${row.errors} (${percent(row.error_rate)})`],
    ["p50", (row) => seconds(row.p50_seconds)],
    ["p95", (row) => seconds(row.p95_seconds)],
    ["tokens", (row) => row.tokens_mean?.toFixed(0) ?? "–"],
    ["feedback", ({ feedback: { n, mean } }) => (n ? `${mean.toFixed(2)} (${n})` : "–")],
  ];
  const names = ["variant", ...columns.map(([name]) => name)];
  const head = element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)));
  const body = rows.map((row) => element("tr", {}, element("th", { scope: "row" }, row.name),
    ...columns.map(([name, value]) =>
      element("td", { "data-name": name }, String(value(row))))));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
}

function checks({ guardrails, sample_ratio: ratio, shadow, ratings }) {
  const { pairs, queue, dropped, failed } = shadow;
  const rows = [
    ...guardrails.map(({ name, value, limit, is_breached: isBreached }) => [
      `guardrail ${name.replaceAll("_", " ")}`,
      `${short(value)} of at most ${short(limit)}: ${isBreached ? "breached" : "kept"}`,
      isBreached,
    ]),
    [
      "sample ratio",
      `p = ${short(ratio.p_value)}: ${ratio.is_mismatch ? "mismatch" : "no mismatch"}`,
      ratio.is_mismatch,
    ],
    ["shadow", `pairs ${pairs}, waiting ${queue}, dropped ${dropped}, failed ${failed}`, false],
  ];
  if (ratings) {
    const { difference, lower, upper, users } = ratings;
    rows.push([
      "ratings",
      `student − teacher ${difference.toFixed(2)}, within ${lower.toFixed(2)} and ` +
        `${upper.toFixed(2)}; users ${users.student} and ${users.teacher}`,
      upper < 0,
    ]);
  }
  return rows.flatMap(([name, said, isBad]) => [
    element("dt", {}, name),
    element("dd", { class: isBad ? "bad" : "" }, said),
  ]);
}

const percent = (share) => (share == null ? "–" : `${short(100 * share)}%`);
const seconds = (value) => (value == null ? "–" : `${value.toFixed(2)} s`);
const short = (value) => (value == null ? "–" : String(+value.toPrecision(3)));
