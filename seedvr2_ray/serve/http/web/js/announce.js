// Tells screen readers what changed elsewhere on the page. Few words, only when a person would want to know.

import { byId } from "./dom.js";

let queue = Promise.resolve();

/** Say something once, after what is being said. @param {string} text */
export function announce(text) {
  queue = queue.then(async () => {
    const region = byId("announcer");
    region.textContent = "";
    await new Promise((resolve) => setTimeout(resolve, 80));
    region.textContent = text;
    await new Promise((resolve) => setTimeout(resolve, 900));
  });
}
