// What the settings can do about a file that is refused: offered as buttons where the refusal stands.

import { element } from "./dom.js";
import { t } from "./language.js";

/** @type {{id: string, settings: object, fits: (problem: {kind: string, detail?: string}) => boolean}[]} */
const CURES = [
  {
    id: "salvage",
    settings: { salvage: true },
    fits: ({ kind, detail = "" }) => kind === "damaged-media" || /\bsalvage\b/.test(detail),
  },
  { id: "bwdif", settings: { deinterlace: "bwdif" }, fits: ({ detail = "" }) => /\bdeinterlace\b/.test(detail) },
  { id: "off", settings: { deinterlace: "off" }, fits: ({ detail = "" }) => /\bdeinterlace: off\b/.test(detail) },
];

/** Ways out of a problem. @param {{kind: string, detail?: string} | null | undefined} problem */
export const curesOf = (problem) => (problem ? CURES.filter(({ fits }) => fits(problem)) : []);

/** Offer the ways out of a problem. @param {Element} place @param {{kind: string, detail?: string} | null | undefined} problem @param {(settings: object) => void} choose */
export function offerCures(place, problem, choose) {
  const cures = curesOf(problem);
  const offered = cures.map(({ id }) => id).join();
  const words = { salvage: t("cure.salvage"), bwdif: t("cure.bwdif"), off: t("cure.off") };
  if (/** @type {HTMLElement} */ (place).dataset.offered !== offered) {
    /** @type {HTMLElement} */ (place).dataset.offered = offered;
    place.replaceChildren(
      ...cures.map(({ settings }) =>
        element("button", { type: "button", class: "secondary small", on: { click: () => choose(settings) } }),
      ),
    );
  }
  cures.forEach(({ id }, index) => (place.children[index].textContent = words[id]));
}
