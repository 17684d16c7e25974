"use strict";
// Shows the page anew, without a flicker, and keeps what is scrolled and selected.
async function update() {
  try {
    const text = await (await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(10000) })).text();
    const fresh = new DOMParser().parseFromString(text, "text/html");
    const wanted = fresh.querySelectorAll("main > *"), main = document.querySelector("main");
    if (document.getSelection().isCollapsed) main.replaceChildren(...wanted);
  } catch {
    const note = document.getElementById("connection");
    note.textContent = "potstill watch does not answer: the page is not updated any more";
    note.className = "stale";
  }
}
setInterval(update, 3000);
