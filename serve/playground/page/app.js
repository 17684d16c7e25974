// The page's frame: views, the key, and what the server supports.

import { ApiError, get, hasKey, useKey } from "./api.js";
import { askAnew, setUpChat } from "./chat.js";
import { watchExperiments } from "./experiments.js";
import { setUpTask } from "./task.js";

const door = document.getElementById("door");
const key = document.getElementById("key");
const changeKey = document.getElementById("change-key");
const notice = document.getElementById("notice");
const views = ["chat", "experiments"];

function showView() {
  const wanted = location.hash.slice(1);
  const shown = views.includes(wanted) ? wanted : "chat";
  for (const view of views) {
    document.getElementById(`${view}-view`).hidden = view !== shown;
    const link = document.querySelector(`nav a[href="#${view}"]`);
    if (view === shown) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  watchExperiments(shown === "experiments");
}

/** Return what a path has; null where the server does not have the path. */
async function found(path) {
  try {
    return await get(path);
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return null;
    throw error;
  }
}

async function start() {
  notice.textContent = "";
  try {
    const { data } = await get("v1/models");
    // Votes and thumbs need a server that stores answers, which has experiments, none perhaps.
    setUpChat(data, (await found("v1/experiments")) !== null);
    setUpTask(await found("v1/task"), askAnew);
    door.hidden = true;
    changeKey.hidden = !hasKey();
    showView();
    window.onhashchange = showView;
  } catch (error) {
    if (error.status !== 401) notice.textContent = `Nothing can be asked: ${error.message}.`;
  }
}

function askForKey() {
  door.hidden = false;
  key.focus();
}

addEventListener("keyneeded", () => {
  if (door.hidden) askForKey();
  else notice.textContent = "This key does not open the server.";
});
changeKey.addEventListener("click", askForKey);
door.addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(key.value.trim());
  key.value = "";
  start();
});
start();
