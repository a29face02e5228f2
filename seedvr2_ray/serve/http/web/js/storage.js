// What this browser remembers: small values in localStorage, files in IndexedDB. Both may be missing or full;
// then the page works and forgets.

const PREFIX = "seedvr2.";

/** Read a value that was stored as JSON. @param {string} name @param {any} [otherwise] */
export function recall(name, otherwise = null) {
  try {
    const text = localStorage.getItem(PREFIX + name);
    return text === null ? otherwise : JSON.parse(text);
  } catch {
    return otherwise;
  }
}

/** Store a value; `null` forgets it. Says whether it is stored. @param {string} name @param {any} value */
export function remember(name, value) {
  try {
    if (value === null) localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/** @type {Promise<IDBDatabase> | null} */
let opening = null;

function openFiles() {
  opening ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("seedvr2", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("files");
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opening;
}

async function inFiles(mode, ask) {
  const transaction = (await openFiles()).transaction("files", mode);
  const request = ask(transaction.objectStore("files"));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });
}

/** Keep a file under a name. Says whether that was possible. @param {string} name @param {File} file */
export async function keepFile(name, file) {
  try {
    await inFiles("readwrite", (files) => files.put({ file, at: Date.now() }, name));
    return true;
  } catch {
    return false;
  }
}

/** Take a kept file, or null. @param {string} name @returns {Promise<File | null>} */
export async function keptFile(name) {
  try {
    return (await inFiles("readonly", (files) => files.get(name)))?.file ?? null;
  } catch {
    return null;
  }
}

/** Forget a file. @param {string} name */
export async function dropFile(name) {
  await inFiles("readwrite", (files) => files.delete(name)).catch(() => {});
}

/** Give a kept file another name. @param {string} from @param {string} to */
export async function renameFile(from, to) {
  const file = await keptFile(from);
  if (file && (await keepFile(to, file))) await dropFile(from);
}

/** Forget every file, and every value whose name begins so. @param {string} beginning */
export async function forgetAll(beginning) {
  await inFiles("readwrite", (files) => files.clear()).catch(() => {});
  try {
    for (const name of Object.keys(localStorage)) {
      if (name.startsWith(PREFIX + beginning)) localStorage.removeItem(name);
    }
  } catch {
    // Nothing was stored.
  }
}

/**
 * Forget all files but the newest few, so that a browser's disk is not filled by what nobody looks at again.
 * @param {{most: number, mostBytes: number, spare: (name: string) => boolean}} limits
 */
export async function pruneFiles({ most, mostBytes, spare }) {
  try {
    const names = await inFiles("readonly", (files) => files.getAllKeys());
    const values = await inFiles("readonly", (files) => files.getAll());
    const found = names.map((name, index) => ({ name, at: values[index].at, size: values[index].file.size }));
    let bytes = 0;
    let count = 0;
    for (const { name, size } of found.filter(({ name }) => !spare(name)).sort((a, b) => b.at - a.at)) {
      bytes += size;
      count += 1;
      if (count > most || bytes > mostBytes) await dropFile(name);
    }
  } catch {
    // Nothing is kept in this browser, so nothing has to go.
  }
}
