// The form of settings: what the presets and "more" choose, remembered in this browser.

import { byId, element } from "./dom.js";
import { hasWords, t } from "./language.js";
import { recall, remember } from "./storage.js";

const TIME = String.raw`(\d+:)?(\d+:)?\d+(\.\d+)?`;
const EXCERPT = new RegExp(`^(${TIME}\\s*-\\s*(${TIME})?|-\\s*${TIME}|frames? +\\d+(\\s*-\\s*\\d+)?)$`, "i");
const EXACT = /^(x\d{1,2}(\.\d+)?|\d{2,5}x\d{2,5})$/i;

const USUAL = { codec: "auto", container: "auto", crf: "", picture: "auto" };

/** Events: `change` when the settings are others, after a pause in typing. */
export class SettingsForm extends EventTarget {
  #form = /** @type {HTMLFormElement} */ (byId("settings"));
  #model = /** @type {HTMLSelectElement} */ (byId("model"));
  #exact = /** @type {HTMLInputElement} */ (byId("exact"));
  #excerpt = /** @type {HTMLInputElement} */ (byId("excerpt"));
  #seed = /** @type {HTMLInputElement} */ (byId("seed"));
  #codec = /** @type {HTMLSelectElement} */ (byId("codec"));
  #container = /** @type {HTMLSelectElement} */ (byId("container"));
  #crf = /** @type {HTMLInputElement} */ (byId("crf"));
  #picture = /** @type {HTMLSelectElement} */ (byId("picture"));
  #models = [];
  #timer = 0;

  constructor() {
    super();
    this.#restore(recall("settings"));
    this.#form.addEventListener("input", () => this.#edited());
    document.addEventListener("language", () => this.#validate());
    this.#validate();
  }

  /** What the service takes as the settings of a job. @param {"video" | "image" | null} kind of its file */
  valueFor(kind) {
    return { ...this.#common, ...(kind === "image" ? this.#ofPictures : this.#ofVideos) };
  }

  get #ofPictures() {
    return this.#picture.value === "auto" ? {} : { codec: this.#picture.value };
  }

  get #ofVideos() {
    const crf = this.#crf.disabled ? "" : this.#crf.value.trim();
    return {
      ...(this.#codec.value !== "auto" && { codec: this.#codec.value }),
      ...(this.#container.value !== "auto" && { container: this.#container.value }),
      ...(crf && { crf: Number(crf) }),
    };
  }

  get #common() {
    const form = new FormData(this.#form);
    const excerpt = String(form.get("excerpt")).trim().toLowerCase();
    return {
      ...(excerpt && { excerpt }),
      resolution: String(form.get("exact")).trim().toLowerCase() || String(form.get("size")),
      model: String(form.get("model")),
      seed: Number(form.get("seed")),
      colour_match: String(form.get("colour_match")),
    };
  }

  /** Whether the form can be sent; shows what is wrong where it cannot. */
  isValid() {
    for (const id of ["more", "output"])
      if (byId(id).querySelector(":invalid")) /** @type {HTMLDetailsElement} */ (byId(id)).open = true;
    return this.#form.reportValidity();
  }

  /** Offer the models that the service has. @param {{name: string}[]} models */
  offer(models) {
    const chosen = recall("settings")?.model ?? "auto";
    this.#models = models;
    // Where no device is made for it, a large picture takes hours: twice the size is a beginning.
    if (!recall("settings") && models[0]?.num_gpus === 0) {
      this.#choose("x2");
      this.dispatchEvent(new Event("change")); // Files that were faster than this are looked at again.
    }
    for (const { name } of models) this.#model.append(element("option", { value: name, text: this.#nameOf(name) }));
    if (models.some(({ name }) => name === chosen)) this.#model.value = chosen;
  }

  #nameOf(name) {
    return hasWords(`model.${name}`) ? t(`model.${name}`) : name;
  }

  #edited() {
    this.#validate();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (!this.#form.checkValidity()) return;
      remember("settings", {
        ...this.#common,
        ...this.#format,
        exact: this.#exact.value.trim(),
        size: new FormData(this.#form).get("size"),
      });
      this.dispatchEvent(new Event("change"));
    }, 350);
  }

  /** What was chosen of the result's file, whatever kind it is of. */
  get #format() {
    const [codec, container, picture] = [this.#codec.value, this.#container.value, this.#picture.value];
    return { codec, container, crf: this.#crf.value.trim(), picture };
  }

  /** Only containers that hold the codec can be chosen, and a quality only where it has one. */
  #fitCodec() {
    const { dataset, value } = this.#codec.selectedOptions[0];
    const holds = dataset.containers?.split(" ");
    for (const option of this.#container.options)
      option.disabled = option.value !== "auto" && holds !== undefined && !holds.includes(option.value);
    if (this.#container.selectedOptions[0]?.disabled) this.#container.value = "auto";
    this.#crf.disabled = value !== "auto" && !dataset.maxCrf;
    this.#crf.max = dataset.maxCrf ?? "51";
    this.#crf.placeholder = dataset.crf ?? "";
  }

  #validate() {
    this.#fitCodec();
    const exact = this.#exact.value.trim();
    this.#exact.setCustomValidity(exact && !EXACT.test(exact) ? t("exact.invalid") : "");
    const excerpt = this.#excerpt.value.trim();
    this.#excerpt.setCustomValidity(excerpt && !EXCERPT.test(excerpt) ? t("excerpt.invalid") : "");
    this.#form.querySelector(".segmented").classList.toggle("off", exact !== "");
    for (const option of this.#model.options)
      if (this.#models.some(({ name }) => name === option.value)) option.textContent = this.#nameOf(option.value);
  }

  #choose(size) {
    for (const radio of this.#form.querySelectorAll('[name="size"]'))
      if (/** @type {HTMLInputElement} */ (radio).value === size) /** @type {HTMLInputElement} */ (radio).checked = true;
  }

  #restore(before) {
    if (!before) return;
    this.#choose(before.size);
    const colour = /** @type {HTMLSelectElement} */ (byId("colour"));
    if ([...colour.options].some(({ value }) => value === before.colour_match)) colour.value = before.colour_match;
    this.#exact.value = before.exact ?? "";
    this.#seed.value = String(before.seed ?? 666);
    const format = { ...USUAL, ...before };
    for (const [name, field] of Object.entries({ codec: this.#codec, container: this.#container, picture: this.#picture }))
      if ([...field.options].some(({ value }) => value === format[name])) field.value = format[name];
    this.#crf.value = format.crf;
    const isUsualFormat = Object.entries(USUAL).every(([name, usual]) => format[name] === usual);
    const isUsual =
      !this.#exact.value && before.seed === 666 && before.colour_match === "wavelet" && before.model === "auto";
    /** @type {HTMLDetailsElement} */ (byId("output")).open = !isUsualFormat;
    /** @type {HTMLDetailsElement} */ (byId("more")).open = !isUsual || !isUsualFormat;
  }
}
