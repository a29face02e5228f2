// The page's words in two languages, and numbers, sizes and times as they are written in each.

import { recall, remember } from "./storage.js";

/** Names of the languages, each in itself. */
export const LANGUAGES = { en: "English", zh: "中文" };
const LOCALES = { en: "en", zh: "zh-CN" };

/** @type {Record<string, string>} */
let words = {};
let current = "en";

/** The language that is spoken now. */
export const language = () => current;

/** The language to start with: the one chosen before, else the browser's. */
export function firstLanguage() {
  const chosen = recall("language");
  if (chosen in LANGUAGES) return chosen;
  return navigator.languages.some((tag) => tag.toLowerCase().startsWith("zh")) && !navigator.language.startsWith("en")
    ? "zh"
    : "en";
}

/**
 * Speak a language from now on: the page's own text changes at once, everything else on the event `language`.
 * @param {string} name @param {{keep?: boolean}} [options]
 */
export async function speak(name, { keep = false } = {}) {
  const answer = await fetch(new URL(`../languages/${name}.json`, import.meta.url));
  words = await answer.json();
  current = name;
  if (keep) remember("language", name);
  document.documentElement.lang = LOCALES[name];
  translate(document);
  document.dispatchEvent(new CustomEvent("language"));
}

/** Put words into everything that names a key: `data-t` for the text, `data-t-<attribute>` for attributes. */
export function translate(root) {
  for (const node of root.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const attribute of ["aria-label", "placeholder", "title"]) {
    for (const node of root.querySelectorAll(`[data-t-${attribute}]`)) {
      node.setAttribute(attribute, t(node.getAttribute(`data-t-${attribute}`)));
    }
  }
}

/**
 * The words for a key, `{name}` filled in.
 * @param {string} key @param {Record<string, string | number>} [values]
 */
export function t(key, values = {}) {
  const text = words[key];
  if (text === undefined) throw new Error(`no words for ${key}`);
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

/** Whether there are words for a key; keys of problems and models come from the service. @param {string} key */
export const hasWords = (key) => key in words;

/** Words that depend on a count: keys `<key>.one` and `<key>.other`. @param {string} key @param {number} count */
export function plural(key, count) {
  const digits = count < 1 ? 2 : 1;
  const form = new Intl.PluralRules(LOCALES[current]).select(Number(count.toFixed(digits))) === "one" ? "one" : "other";
  return t(`${key}.${form}`, { count: number(count, digits) });
}

/** @param {number} value @param {number} [digits] */
export function number(value, digits = 0) {
  return new Intl.NumberFormat(LOCALES[current], { maximumFractionDigits: digits }).format(value);
}

/** A file's size, in powers of ten as file managers write it. @param {number} count */
export function bytes(count) {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];
  const power = Math.min(Math.floor(Math.log10(Math.max(count, 1)) / 3), units.length - 1);
  const format = {
    style: "unit",
    unit: units[power],
    unitDisplay: power ? "short" : "long",
    maximumFractionDigits: power > 1 ? 1 : 0,
  };
  return new Intl.NumberFormat(LOCALES[current], format).format(count / 1000 ** power);
}

/** How long something takes, roughly: nobody needs the seconds of an hour. @param {number} seconds */
export function duration(seconds) {
  if (seconds < 60) return t("time.seconds", { count: number(Math.max(1, Math.round(seconds))) });
  if (seconds < 3570) return t("time.minutes", { count: number(Math.round(seconds / 60)) });
  const hours = Math.floor(seconds / 3600 + 1 / 120);
  const minutes = Math.round(seconds / 60) - hours * 60;
  return minutes > 0
    ? t("time.hours", { count: number(hours), minutes: number(minutes) })
    : t("time.full_hours", { count: number(hours) });
}

/** A price. The service counts in a currency of the operator's choice, so none is named. @param {number} amount */
export function cost(amount) {
  if (amount <= 0) return t("cost.none");
  const format = { minimumFractionDigits: 2, maximumFractionDigits: 2 };
  if (amount < 0.01) return t("cost.below", { amount: new Intl.NumberFormat(LOCALES[current], format).format(0.01) });
  return t("cost.amount", { amount: new Intl.NumberFormat(LOCALES[current], format).format(amount) });
}

/** When something happened, as a person would say it. @param {string} iso */
export function moment(iso) {
  const at = new Date(iso);
  const isToday = at.toDateString() === new Date().toDateString();
  const day = isToday ? {} : { month: "short", day: "numeric" };
  return new Intl.DateTimeFormat(LOCALES[current], { ...day, hour: "numeric", minute: "2-digit" }).format(at);
}

/** A clock reading of a film's position. @param {number} seconds */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds || 0));
  const parts = [Math.floor(whole / 60) % 60, whole % 60];
  if (whole >= 3600) parts.unshift(Math.floor(whole / 3600));
  return parts.map((part, index) => (index ? String(part).padStart(2, "0") : String(part))).join(":");
}
