// The chat: one model, or two side by side, named or blind; figures, thumbs and votes.

import { chat as ask, post } from "./api.js";
import { button, drawn, element } from "./elements.js";
import { tablesOf } from "./task.js";

const USER = "potstill.user";
const NO_STORAGE =
  "This server stores no answers (serve.storage is off), so there are no votes and no thumbs.";
const LAST_REASON = { length: "cut off at max tokens", content_filter: "filtered" };

const at = (id) => document.getElementById(id);
const [log, hint, status] = ["log", "hint", "status"].map(at);
const [options, first, second, serving] = ["options", "first", "second", "serving"].map(at);
const [composer, message, send, stop] = ["composer", "message", "send", "stop"].map(at);

let keepsAnswers = false;
/** Names of the models' files, by model. */
let files = {};
/** The current conversations, one per column; null when the next message starts new ones. */
let columns = null;
/** The AbortController of the running answers; null without any. */
let running = null;

/** Show the models to choose from, given their cards; may be called again. */
export function setUpChat(cards, answersAreKept) {
  keepsAnswers = answersAreKept;
  files = Object.fromEntries(cards.map((card) => [card.id, card.file]));
  const models = cards.map((card) => card.id);
  const chosen = models.includes("student") ? "student" : models[0];
  const others = models.filter((name) => name !== chosen);
  const rival = others.includes("teacher") ? "teacher" : others[0] ?? chosen;
  for (const [select, wanted] of [[first, chosen], [second, rival]]) {
    select.replaceChildren(...models.map((name) => element("option", {}, name)));
    select.value = wanted;
  }
  options.querySelector("[value=blind]").closest("label").hidden = !keepsAnswers;
  beginAnew();
}

/** Send a message in a new chat. */
export function askAnew(content) {
  if (running) return;
  beginAnew();
  message.value = content;
  composer.requestSubmit();
}

/** One model's conversation. */
class Column {
  constructor(model, side) {
    this.model = model;
    this.side = side;
    this.messages = [];
  }

  get name() {
    return this.side ? `${this.side}: ${this.model}` : this.model;
  }
}

/** One answer on the page, from the request to its last token. */
class Answer {
  constructor(column, isBlind) {
    this.column = column;
    this.isBlind = isBlind;
    this.isWhole = false;
    this.name = element("h3", {}, isBlind ? column.side : column.name);
    this.text = document.createTextNode("");
    this.calls = [];
    this.shown = element("p", { class: "text" });
    this.note = element("p", { class: "figures muted" }, "…");
    this.actions = element("div", { class: "actions" });
    this.element = element(
      "article", { class: "answer", "aria-busy": "true" },
      this.name, this.shown, this.note, this.actions,
    );
    if (!isBlind) this.shown.append(this.text);
  }

  /** Send the message and show the answer; the chat continues with whatever arrived. */
  async run(content, settings, signal) {
    const started = performance.now();
    const asked = { role: "user", content };
    const messages = [...settings.messages, ...this.column.messages, asked];
    let reason = null;
    try {
      const body = { ...settings.parameters, model: this.column.model, messages };
      const reply = await ask(body, signal);
      this.variant = reply.variant;
      for await (const chunk of reply.chunks) {
        this.take(chunk, performance.now() - started);
        reason = chunk.choices[0]?.finish_reason ?? reason;
      }
      this.isWhole = true;
      this.ending = LAST_REASON[reason];
    } catch (error) {
      this.hasFailed = error.name !== "AbortError";
      this.ending = this.hasFailed ? `failed: ${error.message}` : "stopped";
    }
    this.isKept = this.isWhole || this.text.data !== "";
    if (this.isKept) {
      const calls = this.calls.length ? { tool_calls: this.calls } : {};
      this.column.messages.push(asked, { role: "assistant", content: this.text.data, ...calls });
    }
    if (!this.isBlind) follow(() => this.show());
  }

  take(chunk, milliseconds) {
    this.id = chunk.id;
    this.numTokens = chunk.usage?.completion_tokens;
    const { content, tool_calls: calls } = chunk.choices[0]?.delta ?? {};
    if (!content && !calls) return;
    this.firstAt ??= milliseconds;
    this.lastAt = milliseconds;
    for (const { index, id, type, function: { name, arguments: more } } of calls ?? []) {
      this.calls[index] ??= { id, type, function: { name, arguments: "" } };
      this.calls[index].function.arguments += more ?? "";
    }
    if (content) follow(() => { this.text.data += content; });
  }

  get figures() {
    const { firstAt, lastAt, numTokens } = this;
    const parts = [];
    if (this.variant) parts.push(`variant ${this.variant}`);
    if (firstAt !== undefined) parts.push(`first token ${(firstAt / 1000).toFixed(2)} s`);
    if (numTokens > 1 && lastAt > firstAt) {
      parts.push(`${(1000 * (numTokens - 1) / (lastAt - firstAt)).toFixed(1)} tokens/s`);
    }
    if (numTokens !== undefined) parts.push(`${numTokens} tokens`);
    if (this.ending) parts.push(this.ending);
    return parts.join(" · ");
  }

  /** Show the whole answer. Speed would identify a model: blind answers are shown together. */
  show() {
    this.shown.append(this.text);
    const tables = tablesOf(this.text.data, this.calls);
    if (tables.length) {
      this.shown.before(...tables);
      this.shown.hidden = !this.text.data.trim();
      this.shown.classList.add("muted");
    }
    this.element.setAttribute("aria-busy", "false");
    this.note.textContent = this.isBlind ? this.ending ?? "" : this.figures;
    this.note.classList.toggle("bad", this.hasFailed ?? false);
  }

  reveal() {
    this.name.textContent = this.column.name;
    this.note.textContent = this.figures;
  }

  offerCopy() {
    if (!this.text.data || !navigator.clipboard) return; // browsers have it on secure pages only
    const copy = async () => {
      await navigator.clipboard.writeText(this.text.data);
      made.textContent = "Copied";
    };
    const made = button("Copy", copy, { class: "small" });
    this.actions.append(made);
  }

  offerThumbs() {
    const buttons = [["up", "Good answer"], ["down", "Bad answer"]].map(([thumbs, label]) => {
      const icon = drawn("svg", { "aria-hidden": "true" }, drawn("use", { href: "#thumb" }));
      const rate = () => submit("v1/feedback", { response_id: this.id, thumbs }, () => {
        for (const other of buttons) other.setAttribute("aria-pressed", other === made);
      });
      const attributes = { class: `thumb ${thumbs}`, "aria-label": label, "aria-pressed": "false" };
      const made = button(icon, rate, attributes);
      return made;
    });
    this.actions.append(...buttons);
  }
}

/** Send a message to one or two models, and show their answers. */
async function converse(content) {
  const mode = options.elements.mode.value;
  const isBlind = mode === "blind";
  if (isBlind) columns = null;
  try {
    columns ??= await begun(mode);
  } catch (error) {
    hint.textContent = `The models cannot be dealt: ${error.message}`;
    message.value ||= content;
    return;
  }
  const askedTheSame = columns.every((column) => column.messages.length === 0);
  const answers = columns.map((column) => new Answer(column, isBlind));
  const shown = answers.map((one) => one.element);
  const box = element("div", { class: `answers of-${answers.length}` }, ...shown);
  const turn = element("section", { class: "turn" },
    element("p", { class: "question text" }, content), ...tabsOver(box, answers), box);
  // Only the last answers are voted on, or asked for again.
  for (const former of log.querySelectorAll(".vote.open, .retry")) former.remove();
  log.append(turn);
  turn.scrollIntoView({ block: "end" });
  setRunning(new AbortController());
  const settings = readSettings();
  await Promise.all(answers.map((one) => one.run(content, settings, running.signal)));
  if (!log.contains(turn)) return; // a new chat was begun meanwhile
  setRunning(null);
  follow(() => finish(turn, answers, { content, isBlind, askedTheSame }));
  // Read out once, when complete: a live log would read out every token.
  status.textContent = answers.map((one) => `${one.name.textContent}: ${one.text.data}`).join("\n");
  const hasAny = answers.some((one) => one.text.data || one.isWhole);
  if (!message.value && !hasAny) message.value = content;
}

/** Return the tabs by which a narrow screen shows one of two answers at a time. */
function tabsOver(box, answers) {
  if (answers.length < 2) return [];
  const choose = (shown) => {
    box.dataset.shown = shown;
    tabs.forEach((tab, index) => tab.setAttribute("aria-pressed", index === shown));
  };
  const tabs = answers.map(({ column }, index) => button(column.side, () => choose(index)));
  choose(0);
  return [element("div", { class: "tabs", role: "group", "aria-label": "Answer shown" }, ...tabs)];
}

/** Send a message again; its former answers leave the chat. */
function retry(turn, answers, content) {
  if (running) return;
  for (const one of answers) if (one.isKept) one.column.messages.splice(-2);
  turn.remove();
  if (message.value === content) message.value = "";
  converse(content);
}

function finish(turn, answers, { content, isBlind, askedTheSame }) {
  // Later in a chat each model continues its own answers, which cannot be compared.
  const isComparable = askedTheSame && answers.length > 1 && answers.every((one) => one.isWhole);
  const canVote = keepsAnswers && isComparable;
  for (const one of answers) {
    if (isBlind) one.show();
    else if (keepsAnswers && one.isWhole) one.offerThumbs();
    one.offerCopy();
  }
  if (canVote) turn.append(voteBar(answers, isBlind));
  const place = answers.length > 1 ? turn : answers[0].actions;
  place.append(button("Retry", () => retry(turn, answers, content), { class: "small retry" }));
}

function voteBar(answers, isBlind) {
  const attributes = { class: "vote open", role: "group", "aria-label": "Which answer is better?" };
  const bar = element("div", attributes);
  const choices = [["a", "A is better"], ["tie", "A tie"], ["b", "B is better"]];
  const buttons = choices.map(([preference, label]) => button(label, () => {
    const vote = { response_ids: answers.map((one) => one.id), preference, blind: isBlind };
    return submit("v1/votes", vote, ({ models, settings }) => {
      answers.forEach((one, index) => { one.column.model = models[index]; });
      const names = answers.map((one) => one.column.name).join(", ");
      const why = settings.length ? ` It counts for nothing: ${settings.join(", ")} was set.` : "";
      bar.replaceChildren(element("p", { tabindex: "-1" }, `Your vote: ${label}. ${names}.${why}`));
      bar.classList.remove("open");
      bar.firstChild.focus();
      if (isBlind) answers.forEach((one) => one.reveal());
    });
  }));
  bar.append(...buttons);
  return bar;
}

/** Post, and show a failure. */
async function submit(path, body, done) {
  try {
    const stored = await post(path, body);
    showHint();
    follow(() => done(stored));
  } catch (error) {
    hint.textContent = `This was not stored: ${error.message}`;
  }
}

/** Begin the conversations; the server deals blind ones, and names the models after the vote. */
async function begun(mode) {
  if (log.hasChildNodes()) {
    const label = mode === "blind" ? "Blind vote" : "New chat";
    log.append(element("p", { class: "begins muted" }, label));
  }
  let models = mode === "single" ? [first.value] : [first.value, second.value];
  if (mode === "blind") ({ models } = await post("v1/deals", { models }));
  const sides = models.length > 1 ? ["A", "B"] : [null];
  return models.map((model, index) => new Column(model, sides[index]));
}

function readSettings() {
  const system = at("system").value.trim();
  const parameters = { user: sameUser() };
  for (const name of ["temperature", "max_tokens", "seed"]) {
    const { valueAsNumber } = at(name);
    if (!Number.isNaN(valueAsNumber)) parameters[name] = valueAsNumber;
  }
  return { parameters, messages: system ? [{ role: "system", content: system }] : [] };
}

/** Return this browser's random user name, for which an experiment always picks one variant. */
function sameUser() {
  let user = localStorage.getItem(USER);
  if (!user) {
    user = `playground-${crypto.getRandomValues(new Uint32Array(3)).join("-")}`;
    localStorage.setItem(USER, user);
  }
  return user;
}

/** Change the log, and scroll to its end if that was visible. */
function follow(change) {
  const wasAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  change();
  if (wasAtEnd) log.scrollTop = log.scrollHeight;
}

function setRunning(controller) {
  running = controller;
  send.hidden = running !== null;
  stop.hidden = running === null;
}

/** Let the next message start a new chat with the current choices. */
function beginAnew() {
  columns = null;
  const isSingle = options.elements.mode.value === "single";
  second.closest("label").hidden = isSingle;
  const shown = isSingle ? [first.value] : [...new Set([first.value, second.value])];
  const served = shown.filter((name) => files[name]).map((name) => `${name} is ${files[name]}`);
  serving.textContent = served.join(", ");
  showHint();
}

function showHint() {
  hint.textContent = {
    single: keepsAnswers ? "" : NO_STORAGE,
    pair: `Both models share the machine. ${keepsAnswers ? "Only blind votes count." : NO_STORAGE}`,
    blind: "Each message starts a new chat. Names and figures are shown after your vote.",
  }[options.elements.mode.value];
}

options.addEventListener("change", (event) => {
  if (event.target.name === "mode" || event.target.matches("select")) beginAnew();
});
options.addEventListener("submit", (event) => event.preventDefault());
at("new-chat").addEventListener("click", () => {
  running?.abort();
  setRunning(null);
  log.replaceChildren();
  beginAnew();
  message.focus();
});
composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const content = message.value.trim();
  if (!content || running) return;
  if (!options.checkValidity()) {
    options.querySelector("details").open = true; // a browser complains about what it can show
    options.reportValidity();
    return;
  }
  message.value = "";
  message.focus();
  converse(content);
});
message.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  composer.requestSubmit();
});
stop.addEventListener("click", () => {
  running?.abort();
  message.focus();
});
