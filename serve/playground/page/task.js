// The task: examples to click, and answers as tables of fields and calls.

import { button, element } from "./elements.js";

const panel = document.getElementById("task");

/** Dotted path of the label in an answer; null without one. */
let labelField = null;

/** Show the task with its examples; `ask` sends one. No task hides the panel. */
export function setUpTask(task, ask) {
  panel.hidden = !task;
  if (!task) return;
  labelField = task.label_field;
  const examples = task.examples.map((text) =>
    button(text, () => ask(text), { class: "example", title: text }));
  const parts = [element("p", { class: "muted" }, said(task))];
  if (examples.length) {
    const attributes = { class: "examples", role: "group", "aria-label": "Examples" };
    parts.push(element("div", attributes, ...examples));
  }
  panel.replaceChildren(...parts);
}

function said({ metrics, examples }) {
  const measured = metrics.length ? `Answers are measured by ${metrics.join(", ")}. ` : "";
  return `${measured}${examples.length ? "Choose an example, or write your own." : ""}`;
}

/** Return an answer's fields and calls as tables; none where it is only text. */
export function tablesOf(text, calls) {
  const tables = calls.map(({ function: { name, arguments: written } }) =>
    table(name, parsed(written) ?? { arguments: written }));
  const content = parsed(text);
  return content === null ? tables : [table(null, content), ...tables];
}

/** Return the object or list that a text is; null for other text. */
function parsed(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}

function table(name, content) {
  const rows = fieldsOf(content).map(([path, value]) => {
    const isLabel = name === null && path === labelField;
    return element("tr", isLabel ? { class: "label" } : {},
      element("th", { scope: "row" }, path), element("td", {}, value));
  });
  const made = element("table", { class: "fields" }, element("tbody", {}, ...rows));
  if (name !== null) made.prepend(element("caption", {}, `calls ${name}`));
  return made;
}

/** Return the values of nested objects with their dotted paths. */
function fieldsOf(content, before = "") {
  return Object.entries(content).flatMap(([key, value]) => {
    const path = `${before}${key}`;
    if (value !== null && typeof value === "object" && Object.keys(value).length) {
      return fieldsOf(value, `${path}.`);
    }
    return [[path, typeof value === "string" ? value : JSON.stringify(value)]];
  });
}
