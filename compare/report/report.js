"use strict";
// Filters the examples; without this script all are shown.
const form = document.getElementById("filters");
const examples = [...document.querySelectorAll("article.prompt")];

function choose() {
  const wanted = [...form.elements].filter((field) => field.name && field.value);
  let shown = 0;
  for (const example of examples) {
    example.hidden = !wanted.every((field) =>
      field.name === "text"
        ? example.textContent.toLowerCase().includes(field.value.toLowerCase())
        : example.dataset[field.name] === field.value);
    shown += !example.hidden;
  }
  form.querySelector("output").textContent = `${shown} of ${examples.length} shown`;
}

if (form) {
  form.hidden = false;
  form.addEventListener("input", choose);
  form.addEventListener("reset", () => setTimeout(choose));
  form.addEventListener("submit", (event) => event.preventDefault());
  choose();
}
