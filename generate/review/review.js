"use strict";
// What is shown is text: nothing here makes markup of it.
const $ = (id) => document.getElementById(id);
const token = new URLSearchParams(location.search).get("token");
const DONE = { accept: "accepted", edit: "edited", reject: "rejected", label: "labeled" };
const POLL_MS = 3000;

let rows = [], labels = [], visible = [], current = null, busy = false, known = 0;
const decisions = new Map();  // by row: what counts, and how many there were
const drafts = new Map();     // by row: an edited answer that is not saved
const uses = new Map();       // by row: where the next decision puts it
const notes = new Map();      // by row: a note for the next decision
const mine = [];              // rows that were decided on this page, the last one last

function make(tag, text, attributes = {}, ...inside) {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...inside);
  return element;
}

async function call(path, body) {
  const headers = { Authorization: `Bearer ${token}` };
  if (body) headers["Content-Type"] = "application/json";
  const options = { headers, cache: "no-store", method: body ? "POST" : "GET",
    body: body && JSON.stringify(body), signal: AbortSignal.timeout(20000) };
  const response = await fetch(path, options);
  const content = await response.json();
  if (!response.ok && response.status !== 409) throw new Error(content.error);
  return { status: response.status, content };
}

function notify(text) { $("notice").textContent = text; }

function explain(error) {
  const lost = error instanceof TypeError || error.name === "TimeoutError";
  notify(lost ? "potstill review does not answer: nothing is stored now" : error.message);
}

const stateOf = (row) => decisions.get(row.id)?.last ?? null;
const isOpen = (row) => !stateOf(row) && !row.reviewed;
const question = (row) => row.messages.findLast((one) => one.role === "user")?.content
  ?? row.messages.at(-1).content;
const useOf = (row) => uses.get(row.id) ?? stateOf(row)?.use ?? row.uses[0];

function take({ total, decisions: found }) {
  for (const one of found) {
    const before = decisions.get(one.row)?.count ?? 0;
    decisions.set(one.row, { last: one.action === "undo" ? null : one, count: before + 1 });
  }
  known = total;
  return found.length > 0;
}

async function refresh() { return take((await call(`/decisions?since=${known}`)).content); }

async function decide(action, values = {}, row = current) {
  if (!row || busy) return false;
  busy = true;
  const after = following(row);
  try {
    const seen = decisions.get(row.id)?.count ?? 0;
    const asked = { row: row.id, seen, action, use: useOf(row), note: notes.get(row.id) ?? "", ...values };
    const { status } = await call("/decisions", asked);
    await refresh();
    if (status === 409) {
      const other = stateOf(row);
      notify(`${other ? other.reviewer : "Somebody"} decided on this answer meanwhile; look again.`);
      show(row);
      return false;
    }
    notify("");
    drafts.delete(row.id);
    uses.delete(row.id);
    notes.delete(row.id);
    if (action !== "undo") mine.push(row);
    show(action === "undo" ? row : after);
    return true;
  } catch (error) {
    explain(error);
    return false;
  } finally {
    busy = false;
  }
}

function following(row) {
  const at = visible.indexOf(row);
  return visible[at + 1] ?? visible[at - 1] ?? null;
}

function label(name) {
  if (!current) return;
  const use = uses.get(current.id) ?? (current.uses.includes("examples") ? "examples" : useOf(current));
  decide("label", { content: name, use });
}

function undo() {
  const row = current && stateOf(current) ? current : mine.findLast(stateOf);
  if (row) decide("undo", {}, row);
}

function matches(row) {
  const state = $("state").value, doubt = $("doubt").value, cluster = $("cluster").value;
  const words = $("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const isWanted = !state || (state === "open" ? isOpen(row) : stateOf(row)?.action === state);
  return isWanted && (!doubt || row.doubts.some((one) => one.kind === doubt))
    && (!cluster || row.cluster === cluster) && words.every((word) => row.text.includes(word));
}

function count(keys) {
  const counts = new Map();
  for (const key of keys) counts.set(key, (counts.get(key) ?? 0) + 1);
  return [...counts].sort((one, other) => other[1] - one[1]);
}

function fill(select, all, options) {
  const chosen = select.value;
  select.replaceChildren(make("option", all, { value: "" }),
    ...options.map(([value, text]) => make("option", text, { value })));
  select.value = chosen;
  if (select.selectedIndex < 0) select.value = "";
}

function fillFilters() {
  const kinds = count(rows.flatMap((row) => [...new Set(row.doubts.map((one) => one.kind))]));
  fill($("doubt"), "any", kinds.map(([kind, number]) => [kind, `${kind} (${number})`]));
  const clusters = count(rows.map((row) => row.cluster)).filter(([, number]) => number > 1);
  fill($("cluster"), "any", clusters.map(([id, number]) => {
    const text = question(rows.find((row) => row.cluster === id));
    return [id, `${number} like: ${text.length > 60 ? text.slice(0, 60) + "…" : text}`];
  }));
}

function callsText(message) {
  return JSON.parse(message.tool_calls || "[]")
    .map((one) => `${one.function.name}(${one.function.arguments})`).join("\n");
}

function body(message, isFormer = false) {
  const former = isFormer ? " former" : "", parts = [];
  if (message.content) parts.push(make("p", message.content, { class: "text" + former }));
  if (message.tool_calls) parts.push(make("p", callsText(message), { class: "text calls" + former }));
  if (!parts.length) parts.push(make("p", "(empty)", { class: "muted" }));
  return parts;
}

function turn(message, kind = "question") {
  const role = make("div", message.role, { class: "role" });
  if (message.role === "system" && message.content.length > 300) {
    const details = make("details", "", {}, make("summary", "system"), ...body(message));
    return make("div", "", { class: "question" }, details);
  }
  return make("div", "", { class: kind }, role, ...body(message));
}

function editor(row) {
  const answer = row.answer.at(-1), last = stateOf(row), draft = drafts.get(row.id);
  const content = make("textarea", "", { id: "content", "aria-label": "answer" });
  content.value = draft.content;
  const calls = make("textarea", "", { id: "calls", "aria-label": "calls of tools, JSON", class: "calls" });
  calls.value = draft.calls;
  calls.hidden = !answer.tool_calls && !last?.known?.tool_calls;
  const keep = () => drafts.set(row.id, { content: content.value, calls: calls.value });
  for (const one of [content, calls]) one.addEventListener("input", keep);
  return make("div", "", { class: "turn answer" }, make("div", "assistant", { class: "role" }), content, calls,
    make("div", "", { class: "row" },
      make("button", "save", { class: "primary", id: "save", onclick: save }),
      make("button", "leave", { id: "leave", onclick: leave })));
}

function edit() {
  if (!current) return;
  const answer = stateOf(current)?.action === "edit" ? stateOf(current).known : current.answer.at(-1);
  if (!drafts.has(current.id)) {
    drafts.set(current.id, { content: answer.content, calls: answer.tool_calls ?? "" });
  }
  show(current);
  $("content").focus();
}

function save() {
  const { content, calls } = drafts.get(current.id);
  decide("edit", { content, tool_calls: calls.trim() ? calls : null });
}

function leave() { drafts.delete(current.id); show(current); $("row").focus(); }

function answerTurns(row) {
  const turns = row.answer.slice(0, -1).map((one) => turn(one, "turn")), last = stateOf(row);
  if (drafts.has(row.id)) return [...turns, editor(row)];
  const answer = row.answer.at(-1);
  if (last?.action !== "edit") return [...turns, turn(answer, "turn answer")];
  const former = make("details", "", { class: "turn" }, make("summary", "before"), ...body(answer, true));
  return [...turns, turn(last.known, "turn answer"), former];
}

function decided(row) {
  const last = stateOf(row);
  if (!last) return row.reviewed ? `reviewed: ${row.reviewed}` : "";
  const what = last.action === "label" ? `labeled ${last.known.content}` : DONE[last.action];
  const note = last.note ? `: ${last.note}` : "";
  return `${what} by ${last.reviewer}, ${last.time.slice(0, 16).replace("T", " ")}${note}`;
}

function foot(row) {
  const parts = [make("small", row.source)];
  if (row.uses.length > 1 || row.uses[0] !== "training") {
    const select = make("select", "", { id: "use", "aria-label": "where it goes" },
      ...row.uses.map((one) => make("option", one, { value: one })));
    select.value = useOf(row);
    select.addEventListener("change", () => uses.set(row.id, select.value));
    parts.push(select);
  }
  const note = make("input", "", { id: "note", placeholder: "note", "aria-label": "note",
    autocomplete: "off", maxlength: 1000, value: notes.get(row.id) });
  note.addEventListener("input", () => notes.set(row.id, note.value));
  parts.push(note);
  if (decided(row)) parts.push(make("span", decided(row), { class: `state ${stateOf(row)?.action ?? ""}` }));
  return make("div", "", { class: "foot" }, ...parts);
}

function show(row) {
  visible = rows.filter(matches);
  // What has been decided stays in view until another answer is chosen.
  current = row ?? visible[0] ?? null;
  showList();
  showLabels();
  const article = $("row");
  for (const id of ["accept", "edit", "reject"]) $(id).disabled = !current;
  if (!current) {
    article.replaceChildren(make("p", rows.length ? "No answer is left under these filters." : "",
      { class: "empty" }));
    return;
  }
  const knownAnswer = current.known
    ? [make("li", "", { class: "known" }, make("b", "known answer"), current.known.content || callsText(current.known))] : [];
  article.replaceChildren(...current.messages.map((one) => turn(one)), ...answerTurns(current),
    make("ul", "", { class: "doubts" }, ...knownAnswer,
      ...current.doubts.map((one) => make("li", "", {}, make("b", one.kind), one.text))),
    foot(current));
}

function showLabels() {
  const chosen = current && stateOf(current)?.action === "label" ? stateOf(current).known.content : null;
  $("labels").replaceChildren(...labels.map((name, index) => make("button", name,
    { "aria-pressed": String(name === chosen), onclick: () => label(name) },
    ...(index < 9 ? [make("kbd", String(index + 1))] : []))));
}

function showList() {
  const items = visible.map((row) => {
    const last = stateOf(row), kinds = [...new Set(row.doubts.map((one) => one.kind))].join(", ");
    const state = last ? [make("span", `${DONE[last.action]} `, { class: `state ${last.action}` })] : [];
    return make("li", "", {}, make("button", "", { "aria-current": row === current && "true",
      onclick: () => show(row) },
      make("span", question(row), { class: "line" }),
      make("span", "", { class: "line why" }, ...state, kinds || "no doubt")));
  });
  $("list").replaceChildren(...items);
  $("list").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  const done = rows.filter((row) => !isOpen(row)).length, at = visible.indexOf(current) + 1;
  $("progress").textContent = `${done} of ${rows.length} reviewed`
    + (visible.length ? ` · answer ${at || "–"} of the ${visible.length} shown` : "");
}

function move(step) {
  const at = visible.indexOf(current);
  const row = visible[at < 0 ? 0 : Math.min(Math.max(at + step, 0), visible.length - 1)];
  if (row) { show(row); scrollTo(0, 0); }
}

function sameCluster() {
  if (!current) return;
  const select = $("cluster"), id = current.cluster;
  select.value = select.value === id ? "" : id;
  if (select.selectedIndex < 0) { select.value = ""; notify("No other prompt is similar to this one."); }
  show(current);
}

function nextUse() {
  const select = $("use");
  if (!select) return;
  select.selectedIndex = (select.selectedIndex + 1) % select.length;
  uses.set(current.id, select.value);
}

function clearWords() { $("words").value = ""; $("words").blur(); show(null); }

const KEYS = {
  a: () => decide("accept"), r: () => decide("reject"), e: edit, u: undo, x: nextUse, c: sameCluster,
  j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
  n: () => $("note")?.focus(), d: () => $("doubt").focus(), s: () => $("state").focus(),
  "/": () => $("words").focus(), "?": () => $("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input, textarea, select");
  if (event.key === "Escape" && isTyping) {
    if (event.target.matches("textarea")) leave();
    else if (event.target === $("words")) clearWords();
    else event.target.blur();
  } else if (event.key === "Enter" && event.ctrlKey && event.target.matches("textarea")) save();
  else if (event.key === "Enter" && event.target.matches("input")) { event.preventDefault(); event.target.blur(); }
  else if (!isTyping && !event.ctrlKey && !event.metaKey && !event.altKey && !$("help").open) {
    const name = /^[1-9]$/.test(event.key) ? labels[event.key - 1] : undefined;
    const act = name === undefined ? KEYS[event.key] : () => label(name);
    if (act) { event.preventDefault(); act(); }
  }
});
for (const [id, act] of Object.entries({ accept: KEYS.a, edit, reject: KEYS.r, undo,
  previous: KEYS.k, next: KEYS.j, "help-open": KEYS["?"] })) $(id).addEventListener("click", act);
for (const id of ["doubt", "cluster", "state"]) {
  $(id).addEventListener("change", () => { show(null); $(id).blur(); });
}
$("words").addEventListener("input", () => show(null));
addEventListener("beforeunload", (event) => { if (drafts.size) event.preventDefault(); });

async function poll() {
  try {
    const isNew = await refresh();
    if (isNew && !document.activeElement.matches("input, textarea, select")) show(current);
    if ($("notice").textContent.startsWith("potstill review")) notify("");
  } catch (error) {
    explain(error);
  }
}

async function start() {
  try {
    const { content } = await call("/rows");
    labels = content.labels;
    rows = content.rows.map((row) => ({ ...row,
      text: [...row.messages, ...row.answer].map((one) => `${one.content} ${callsText(one)}`)
        .join("\n").toLowerCase() }));
    $("notes").textContent = content.notes.join(" ");
    await refresh();
    fillFilters();
    show(null);
    setInterval(poll, POLL_MS);
  } catch (error) {
    explain(error);
  }
}
start();
