// Puts the page together.

import { announce } from "./announce.js";
import { Api, resolve } from "./api.js";
import { Bulk } from "./bulk.js";
import { Composer } from "./composer.js";
import { byId } from "./dom.js";
import { JobCard } from "./job-card.js";
import { firstLanguage, number, speak, t } from "./language.js";
import { isFinal, JobFeed } from "./live.js";
import { Notifier } from "./notify.js";
import { keptAs } from "./pending.js";
import { inOneLine } from "./problem.js";
import { Session } from "./session.js";
import { pruneFiles } from "./storage.js";
import { leave, showTopBar } from "./top-bar.js";

const ORIGINALS = { most: 12, mostBytes: 1e9 };
/** Before the first list and between tries to get it, in ms. */
const PATIENCE_MS = 3000;
/** Jobs that are found without searching. */
const MOST_UNSEARCHED = 6;

await speak(firstLanguage());

const session = new Session();
const api = new Api(session);
const feed = new JobFeed(api);
const composer = new Composer(api);
/** @type {Map<string, JobCard>} */
const cards = new Map();
const bulk = new Bulk(() => [...cards.values()].filter(({ node }) => !node.hidden));
const notifier = new Notifier();
notifier.addEventListener("change", () => (feed.looksWhileHidden = notifier.isOn));
feed.looksWhileHidden = notifier.isOn;
/** Jobs that were started on this page, with their originals; the first picture of one opens by itself. */
const started = new Map();

function showJob(job) {
  let card = cards.get(job.id);
  if (card) card.update(job);
  else {
    const acts = {
      cancel: (id) => feed.cancel(id),
      remove: (id) => feed.remove(id),
      again: (again, settings, how) => composer.again(again, settings, how),
      shown: () => bulk.render(),
    };
    card = new JobCard(job, acts, started.get(job.id) ?? null);
    if (started.has(job.id)) card.node.classList.add("arrived");
    cards.set(job.id, card);
    place(job, card.node);
  }
  const isFirst = ![...cards.values()].some((other) => other.isOpen);
  if (started.has(job.id) && card.isComparable && !card.wasOffered) {
    card.wasOffered = true;
    if (isFirst) void card.toggle();
  }
  byId("empty").hidden = cards.size > 0;
  filter();
  showTitle();
}

/** Put a card where its age belongs: newest first. */
function place(job, node) {
  const younger = [...feed.jobs.values()].filter((other) => other.created_at < job.created_at && cards.has(other.id));
  const next = younger.sort((a, b) => b.created_at.localeCompare(a.created_at))[0];
  byId("jobs").insertBefore(node, next ? cards.get(next.id).node : null);
}

const search = /** @type {HTMLInputElement} */ (byId("search"));

/** Show only the jobs whose names have what is searched for; there is a field for it once there are several. */
function filter() {
  byId("search-field").hidden = cards.size < MOST_UNSEARCHED && !search.value;
  const wanted = search.value.trim().toLocaleLowerCase();
  for (const [id, card] of cards)
    card.node.hidden = !`${feed.jobs.get(id)?.name}`.toLocaleLowerCase().includes(wanted);
  bulk.render();
}
search.addEventListener("input", filter);

const told = new Map();

/** Tell of states as they change, not of every frame. */
function tell(job) {
  const { id, name, state } = job;
  const before = told.get(id);
  told.set(id, state);
  if (before === undefined || before === state) return;
  announce(`${name}: ${t(`state.${state}`)}`);
  if (isFinal(job)) notifier.ended(job, () => cards.get(id)?.node.scrollIntoView({ block: "center" }));
}

function showTitle() {
  const busy = [...feed.jobs.values()].filter((job) => !isFinal(job));
  const total = busy.reduce((sum, { progress }) => sum + progress.frames_total, 0);
  const done = busy.reduce((sum, { progress }) => sum + progress.frames_done, 0);
  document.title = total > 0 ? `${number((done / total) * 100)} % · seedvr2-ray` : "seedvr2-ray";
}

feed.addEventListener("job", ({ detail }) => {
  tell(detail);
  showJob(detail);
});
feed.addEventListener("removed", ({ detail: id }) => {
  const card = cards.get(id);
  const next = card?.node.nextElementSibling ?? card?.node.previousElementSibling;
  const hadFocus = card?.node.contains(document.activeElement);
  card?.close();
  cards.delete(id);
  bulk.render();
  byId("empty").hidden = cards.size > 0;
  if (hadFocus) (next?.querySelector("button:not([hidden])") ?? byId("jobs-title")).focus();
});
feed.addEventListener("reach", () => (byId("offline").hidden = feed.isReachable));
composer.addEventListener("started", ({ detail: { job, file } }) => {
  started.set(job.id, file);
  feed.take(job);
});

function showLanguage() {
  showTopBar();
  for (const card of cards.values()) card.update();
  bulk.render();
  showSession();
}

let isAsked = false;

function showSession() {
  const sign = byId("sign");
  sign.hidden = !isAsked && !session.isSignedIn;
  sign.querySelector("span").textContent = t(session.isSignedIn ? "sign.out" : "sign.in");
  sign.onclick = async () => {
    if (!session.isSignedIn) return void begin();
    await leave(session);
  };
}
session.addEventListener("change", showSession);

byId("older").addEventListener("click", async () => {
  await feed.older().catch(note);
  byId("older").hidden = feed.cursor === null;
});

const note = (problem) => (byId("jobs-note").textContent = inOneLine(problem));

/** Read what is there; asks for a key where one is needed, and tries again while the service does not answer. */
async function begin() {
  try {
    await feed.begin();
  } catch (problem) {
    isAsked ||= problem.status === 401;
    showSession();
    note(problem);
    if (problem.isPassing) setTimeout(begin, PATIENCE_MS);
    return;
  }
  byId("jobs-note").textContent = "";
  byId("empty").hidden = cards.size > 0;
  byId("older").hidden = feed.cursor === null;
  void composer.resume();
  const [{ models }] = await Promise.all([api.models().catch(() => ({ models: [] })), readLimits()]);
  composer.form.offer(models);
  composer.render();
  void pruneFiles({ ...ORIGINALS, spare: (name) => !name.startsWith(keptAs.job("")) });
}

async function readLimits() {
  const answer = await fetch(resolve("v1/uploads"), { method: "OPTIONS", headers: session.headers }).catch(() => null);
  const most = Number(answer?.headers.get("Tus-Max-Size"));
  if (most > 0) composer.maxBytes = most;
}

document.addEventListener("language", showLanguage);
showLanguage();
// Until now nothing would have heard a click.
document.body.inert = false;
await begin();
