// Puts the live page together: a camera, a screen or a file in, the restored picture beside it.

import { announce } from "./announce.js";
import { Api } from "./api.js";
import { byId, element, setText } from "./dom.js";
import { firstLanguage, number, speak, t } from "./language.js";
import { Session } from "./session.js";
import { StreamLink } from "./stream-link.js";
import { StreamPlayer } from "./stream-player.js";
import { leave, showTopBar } from "./top-bar.js";

const RECORDED = ["video/webm;codecs=vp8,opus", "video/webm;codecs=vp8", "video/webm", "video/mp4"];
const SLICE_MS = 200;
const LOOK_MS = 500;

await speak(firstLanguage());

const session = new Session();
const api = new Api(session);
const before = /** @type {HTMLVideoElement} */ (byId("before"));
const after = /** @type {HTMLVideoElement} */ (byId("after"));
/** What runs now. @type {{stream: MediaStream, recorder: MediaRecorder, link: StreamLink, player: StreamPlayer} | null} */
let running = null;
let state = "idle";
let figures = { dropped: null, factor: null, size: null };
/** When the picture that is at 0 in the restored stream was recorded, in ms. @type {number | null} */
let recordedAt = null;

const STATES = {
  idle: () => t("stream.idle"),
  asking: () => t("stream.asking"),
  connecting: () => t("stream.connecting"),
  measuring: () => t("stream.measuring"),
  running: () => t("stream.running"),
  again: () => t("stream.again"),
  ended: () => t("stream.ended"),
};

function enter(next) {
  if (state !== next && (next === "running" || next === "ended")) announce(STATES[next]());
  state = next;
  show();
}

function show() {
  setText(byId("state"), STATES[state]());
  byId("state").dataset.state = state;
  byId("stop").hidden = running === null;
  for (const id of ["camera", "screen", "file"]) byId(id).hidden = running !== null;
  for (const id of ["model", "size"]) /** @type {HTMLSelectElement} */ (byId(id)).disabled = running !== null;
  const seconds = behind();
  setText(byId("latency"), seconds === null ? "–" : t("stream.seconds", { count: number(seconds, 1) }));
  setText(byId("dropped"), figures.dropped === null ? "–" : number(figures.dropped));
  setText(byId("factor"), figures.factor === null ? "–" : t("stream.times", { count: number(figures.factor, 1) }));
  setText(byId("result"), figures.size ?? "–");
}

/** Seconds from a picture's recording to its being shown, everything in between included. */
function behind() {
  if (recordedAt === null || !after.currentTime) return null;
  return Math.max(0, (performance.now() - recordedAt) / 1000 - after.currentTime);
}

function complain(text) {
  setText(byId("problem"), text);
}

/** Begin with whatever gives pictures. @param {() => Promise<MediaStream>} ask @param {boolean} isLocal */
async function begin(ask, isLocal = false) {
  complain("");
  const mimeType = RECORDED.find((type) => window.MediaRecorder?.isTypeSupported(type));
  if (!mimeType || !("MediaSource" in window)) return complain(t("stream.unsupported"));
  enter("asking");
  let stream;
  try {
    await api.models(); // Asks for a key where one is needed, before anything is recorded.
    stream = await ask();
  } catch (problem) {
    enter("idle");
    return complain(problem instanceof DOMException ? t("stream.denied") : String(problem.message ?? problem));
  }
  if (!isLocal) before.srcObject = stream;
  void before.play().catch(() => {});
  const recorder = new MediaRecorder(stream, { mimeType, videoBitsPerSecond: 4e6 });
  const key = session.headers.Authorization?.replace(/^Bearer /, "") ?? null;
  const link = new StreamLink({ settings: wish(), policy: "drop" }, key);
  const player = new StreamPlayer(after);
  running = { stream, recorder, link, player };
  figures = { dropped: 0, factor: null, size: null };
  follow(link, player);
  let sending = Promise.resolve();
  recorder.ondataavailable = ({ data }) => (sending = sending.then(async () => link.send(await data.arrayBuffer())));
  recorder.onstop = () => void sending.then(() => link.end());
  for (const track of stream.getTracks()) track.addEventListener("ended", stop);
  link.open();
  recordedAt = null;
  recorder.onstart = () => (recordedAt = performance.now());
  recorder.start(SLICE_MS);
  enter("connecting");
}

function wish() {
  const value = (id) => /** @type {HTMLSelectElement} */ (byId(id)).value;
  return { model: value("model"), resolution: value("size") };
}

function follow(link, player) {
  link.addEventListener("mended", () => enter(state === "connecting" ? "measuring" : "running"));
  link.addEventListener("broken", () => enter("again"));
  link.addEventListener("fragment", ({ detail }) => player.take(detail));
  link.addEventListener("news", ({ detail: news }) => {
    if (news.event === "plan") figures = { ...figures, factor: news.real_time_factor, size: news.size };
    else if (news.event === "begin") start(player, news.mime);
    else if (news.event === "chunk") figures.dropped = news.dropped;
    else if (news.event === "dropped") figures.dropped = news.dropped;
    else if (news.event === "error") complain(news.detail);
    show();
  });
  link.addEventListener("over", () => {
    player.end();
    release();
    enter("ended");
  });
}

function start(player, mime) {
  if (!StreamPlayer.plays(mime)) {
    complain(t("stream.unsupported"));
    return stop();
  }
  player.begin(mime);
  enter("running");
}

/** Let go of the camera; nothing more is recorded. */
function release() {
  if (!running) return;
  const { stream, recorder } = running;
  running = null;
  recordedAt = null;
  if (recorder.state !== "inactive") recorder.stop();
  for (const track of stream.getTracks()) track.stop();
  before.srcObject = null;
  if (before.src) {
    URL.revokeObjectURL(before.src);
    before.removeAttribute("src");
    before.load();
  }
}

/** End what is sent; the rest still comes back and ends the stream. */
function stop() {
  if (running && running.recorder.state !== "inactive") running.recorder.stop();
}

byId("camera").addEventListener("click", () =>
  begin(() => navigator.mediaDevices.getUserMedia({ video: true, audio: true }).catch((problem) => {
    // A machine without a microphone still has pictures.
    if (problem.name !== "NotFoundError") throw problem;
    return navigator.mediaDevices.getUserMedia({ video: true });
  })),
);
byId("screen").addEventListener("click", () =>
  begin(() => navigator.mediaDevices.getDisplayMedia({ video: true, audio: true })),
);
byId("file").addEventListener("click", () => byId("file-input").click());
byId("file-input").addEventListener("change", ({ target }) => {
  const [file] = /** @type {HTMLInputElement} */ (target).files;
  /** @type {HTMLInputElement} */ (target).value = "";
  if (file) void begin(() => played(file), true);
});
byId("stop").addEventListener("click", stop);

/** Play a file at its own rate, and return what is played as a stream. @param {File} file */
async function played(file) {
  before.src = URL.createObjectURL(file);
  await before.play();
  const stream = before.captureStream();
  before.addEventListener("ended", stop, { once: true });
  return stream;
}

function showLanguage() {
  showTopBar();
  showSession();
  show();
}

function showSession() {
  const sign = byId("sign");
  sign.hidden = !session.isSignedIn;
  sign.querySelector("span").textContent = t("sign.out");
  sign.onclick = () => leave(session);
}
session.addEventListener("change", showSession);

document.addEventListener("language", showLanguage);
showLanguage();
setInterval(() => running && show(), LOOK_MS);
window.addEventListener("pagehide", release);
// Until now nothing would have heard a click.
document.body.inert = false;
const { models } = await api.models().catch(() => ({ models: [] }));
for (const { name } of models) byId("model").append(element("option", { value: name, text: name }));
