
"use strict";

for (const figure of document.querySelectorAll(".compare")) {
  const range = figure.querySelector("input");
  const stack = figure.querySelector(".stack");
  const picture = figure.querySelector("img");
  const button = figure.querySelector("button");
  const words = figure.dataset;

  const show = () => {
    const before = Number(range.value);
    figure.style.setProperty("--split", `${before}%`);
    range.setAttribute("aria-valuetext", `${Math.round(before)} % ${words.before}, ${Math.round(100 - before)} % ${words.after}`);
  };

  // A range input's thumb lags behind the pointer by up to half its width; here the divider is the thumb.
  const follow = (event) => {
    const box = stack.getBoundingClientRect();
    range.value = (100 * (event.clientX - box.left)) / box.width;
    show();
  };
  range.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    range.focus({ focusVisible: false });
    range.setPointerCapture(event.pointerId);
    follow(event);
  });
  range.addEventListener("pointermove", (event) => {
    if (range.hasPointerCapture(event.pointerId)) follow(event);
  });
  range.addEventListener("input", show);
  show();

  figure.style.setProperty("--aspect", picture.getAttribute("width") / picture.getAttribute("height"));
  button.addEventListener("click", () => {
    const actual = figure.classList.toggle("actual");
    button.setAttribute("aria-pressed", String(actual));
    figure.style.setProperty("--natural-width", `${picture.naturalWidth / window.devicePixelRatio}px`);
  });
}
