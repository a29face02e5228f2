// What every page has at the top: the other language, light or dark, and the way out.

import { byId } from "./dom.js";
import { language, LANGUAGES, speak, t } from "./language.js";
import { forgetAll } from "./storage.js";

const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (prefersDark.matches ? "dark" : "light")) === "dark";

/** Show the buttons in the language of now. */
export function showTopBar() {
  const [other] = Object.keys(LANGUAGES).filter((name) => name !== language());
  const button = byId("language");
  button.textContent = LANGUAGES[other];
  button.lang = other;
  button.onclick = () => speak(other, { keep: true });
  showTheme();
}

function showTheme() {
  byId("theme").setAttribute("aria-label", t(isDark() ? "theme.light" : "theme.dark"));
}

byId("theme").addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("seedvr2.theme", theme);
  } catch {
    // It lasts as long as the page.
  }
  showTheme();
});
prefersDark.addEventListener("change", showTheme);

/** Sign out. Whoever sits here next must not find what the last one worked on, whichever page this is. */
export async function leave(session) {
  session.signOut();
  await forgetAll("pending");
  location.reload();
}
