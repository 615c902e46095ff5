// The page of `sdxl serve`. It asks /api alone, at addresses below its own, so a proxy may give it a path.
// The browser keeps the controls in localStorage, images and the mask in IndexedDB.

const $ = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const box = (element) => element.getBoundingClientRect();
const listen = (type, act) => document.addEventListener(type, act);
const controls = all("body [name]"); // named as in the API, parts of an argument with a dot
const control = (name) => controls.find((each) => each.name === name);
const clamp = (least, value, most) => Math.max(least, Math.min(value, most));
const whole = (side) => Math.max(8, Math.round(side / 8) * 8); // the networks take multiples of 8
const down = (side) => Math.max(8, Math.floor(side / 8) * 8); // as the service does

function node(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  Object.assign(made, properties).append(...children);
  return made;
}

const ICONS = {
  again: "M4 12a8 8 0 0 1 14-5.3L20 9M20 4v5h-5M20 12a8 8 0 0 1-14 5.3L4 15M4 20v-5h5",
  brush: "M20 4 11 14M9 13c-3 0-4 2-4 4s-1 2-2 3c5 1 9 0 9-4 0-2-1-3-3-3Z",
  clear: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  close: "M6 6l12 12M18 6 6 18",
  dice: "M4 4h16v16H4ZM9 9h.01M15 9h.01M12 12h.01M9 15h.01M15 15h.01",
  erase: "m9 20-5-5q-1-1 0-2l9-9 7 7-9 9ZM8.5 8.5l7 7M9 20h11",
  image: "M3 5h18v14H3ZM4 18l6-7 4 5 2-2 4 4M16 9h.01",
  invert: "M12 4a8 8 0 0 0 0 16ZM12 4a8 8 0 0 1 0 16M8 7v10",
  large: "M14 4h6v6M20 4l-7 7M10 20H4v-6M4 20l7-7",
  redo: "M15 5l5 5-5 5M20 10H10a6 6 0 0 0 0 11h2",
  swap: "M7 4 3 8l4 4M3 8h14M17 12l4 4-4 4M21 16H7",
  undo: "M9 5l-5 5 5 5M4 10h10a6 6 0 0 1 0 11h-2",
  up: "M12 16V5M7 9l5-5 5 5M5 20h14",
};

function addIcon(element, name) {
  element.insertAdjacentHTML("afterbegin", `<svg viewBox="0 0 24 24"><path d="${ICONS[name]}"/></svg>`);
  if (element.ariaLabel) element.className = "icon";
  element.title ||= element.ariaLabel ?? "";
  return element;
}

const closeButton = (ariaLabel, onclick) => addIcon(node("button", { type: "button", ariaLabel, onclick }), "close");
for (const each of all("[data-icon]")) addIcon(each, each.dataset.icon || each.id);
for (const each of all("[id]")) each.dataset.testid = each.id;
for (const each of all("form button:not(#generate)")) each.type = "button";
for (const each of all("[min]:not([type])")) each.type = "number";

// ---- the service

const refusal = (message, status = 0, argument) => Object.assign(new Error(message), { status, argument });

// seeds have up to 64 bits, which numbers of JavaScript have not: they stay texts
const parse = (text) => JSON.parse(text, (key, value, context) => (/seed$/.test(key) && value > 0 && context?.source) || value);

async function ask(path, body) {
  const headers = typeof body === "string" ? { "Content-Type": "application/json" } : {};
  let answer, text;
  try {
    answer = await fetch(path, body && { method: "POST", body, headers });
    text = await answer.text();
  } catch {
    showState("lost");
    throw refusal("The service does not answer. Is it running?");
  }
  if (answer.ok) return parse(text);
  const error = text.startsWith("{") ? parse(text).error : { message: `The service answers ${answer.status}.` };
  throw refusal(error.message, answer.status, error.argument);
}

function formOf(values) {
  const form = new FormData();
  for (const [name, value] of Object.entries(values)) form.append(name, value);
  return form;
}

const service = { models: [], loras: [], controls: [], references: [], preprocessors: [], limits: {} };

let asking = 0;

function showState(state) {
  $("state").dataset.state = state;
  $("state").textContent = { loading: "loading the model", lost: "no connection", ready: "ready" }[state];
  clearTimeout(asking);
  if (state !== "ready") asking = setTimeout(readServer, 1500);
}

async function readServer() {
  try {
    Object.assign(service, await ask("api/server"));
    const hasDefaults = service.models.some((each) => each.defaults);
    if ($("state").dataset.state === "lost" || !service.models.length || (service.is_ready && !hasDefaults)) await readNames();
    await readJobs();
    showState(service.is_ready ? "ready" : "loading");
  } catch (error) {
    if (error.status) complain(error); // else it is asked again
  }
}

async function readNames() {
  const names = ["models", "samplers", "loras", "embeddings", "controls", "references"];
  Object.assign(service, ...(await Promise.all(names.map((name) => ask(`api/${name}`)))));
  offer($("model"), service.models, service.models.find((each) => each.is_default).name);
  $("model").disabled = service.models.length < 2;
  offer(control("sampler"), service.samplers);
  offer(control("schedule"), service.schedules);
  offer(control("hires.upscaler"), service.upscalers);
  offer(control("preset"), service.presets);
  for (const kind of kinds) offer($(kind), service[ADDED[kind].list]);
  offer($("embedding"), service.embeddings);
  showLists();
}

/** Fill a list. What was chosen stays, also a choice that was kept. */
function offer(select, list, first = "") {
  const value = kept.fields[select.name] ?? select.value;
  for (const old of select.querySelectorAll(".new")) old.remove();
  for (const each of list) {
    const { name = each, a1111 } = each;
    select.append(node("option", { value: name, textContent: a1111 ?? name, className: "new" }));
  }
  select.value = value;
  if (select.selectedIndex < 0) select.value = first;
}

/** What the chosen model takes where nothing is given. */
function defaults() {
  const model = service.models.find((each) => each.name === $("model").value);
  return model?.defaults ?? service.models.find((each) => each.defaults)?.defaults ?? { width: 1024, height: 1024 };
}

// ---- what is kept

function read() {
  try {
    return JSON.parse(sessionStorage.getItem("sdxl") ?? localStorage.getItem("sdxl")) ?? {}; // each tab has its own first
  } catch {
    return {};
  }
}

const secret = () => [...crypto.getRandomValues(new Uint32Array(4))].map((each) => each.toString(36)).join("");
const kept = { session: secret(), fields: {}, loras: [], control: [], reference: [], more: {}, brush: 0, shown: null, ...read() };
const toggles = all("[type=checkbox]"); // kept by their ids

function keep() {
  for (const each of controls) if (each.tagName !== "SELECT" || service.models.length) kept.fields[each.name] = each.value;
  try {
    for (const storage of [sessionStorage, localStorage]) storage.setItem("sdxl", JSON.stringify(kept));
  } catch {
    // full or forbidden: the page works without
  }
}

const settled = (request) => new Promise((done, fail) => {
  request.onsuccess = () => done(request.result);
  request.onerror = () => fail(request.error);
});

async function openStore() {
  const opening = indexedDB.open("sdxl", 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore("files");
  return settled(opening);
}

const store = openStore();

async function inStore(act) {
  try {
    return await settled(act((await store).transaction("files", "readwrite").objectStore("files")));
  } catch {} // as above
}

const keepFile = (name, file) => inStore((files) => (file ? files.put(file, name) : files.delete(name)));
const keptFile = (name) => inStore((files) => files.get(name));

// ---- the controls

const RATIOS = [["1:1", 1024, 1024], ["4:3", 1152, 896], ["3:2", 1216, 832], ["16:9", 1344, 768], ["21:9", 1536, 640]]; // SDXL's buckets
const width = control("width"), height = control("height");

// a slider beside some numbers: they have the name, and take the keys
for (const number of all("[data-most]")) {
  const { min, step, dataset } = number, range = node("input", { type: "range", min, max: dataset.most, step, tabIndex: -1, ariaHidden: "true" });
  range.oninput = () => Object.assign(number, { value: range.value, ariaInvalid: null });
  number.after(range);
}

/** The sides where none are given: those of the source, else the model's. */
function ownSize() {
  const own = defaults();
  if (!image || (kept["only-masked"] && hasMask())) return [own.width, own.height];
  return [image.width, image.height].map(down);
}

function refresh() {
  const own = defaults(), sides = ownSize();
  const hints = { width: sides[0], height: sides[1], steps: own.steps ?? 30, guidance_scale: own.guidance_scale ?? 5 };
  hints.strength = hasMask() ? 1 : 0.3;
  hints["hires.steps"] = control("steps").value || hints.steps;
  for (const [name, hint] of Object.entries(hints)) control(name).placeholder = hint;
  for (const name of ["sampler", "schedule"]) {
    const label = [...control(name).options].find((each) => each.value === own[name])?.textContent ?? own[name];
    control(name).options[0].textContent = label ? `Auto: ${label}` : "Auto";
  }
  for (const number of all("[data-most]")) {
    const range = number.nextElementSibling;
    range.value = number.value || number.placeholder;
    range.classList.toggle("unset", !number.value);
  }
  showRatios(sides);
  for (const each of toggles) each.checked = kept[each.id];
  $("hires-field").hidden = Boolean(image); // which has its size already
  const grown = [width, height].map((side) => down((side.value || side.placeholder) * (control("hires.scale").value || 2)));
  $("hires-size").textContent = `Enlarged to ${(kept.more["hires.size"]?.toReversed?.() ?? grown).join(" × ")}`;
  $("reuse").disabled = !shown();
}

function showRatios(sides) {
  const own = defaults(), [w, h] = [width.value || sides[0], height.value || sides[1]].map(Number);
  const isOpen = !width.value && !height.value, turn = (list) => (h > w ? list.reverse() : list);
  const chips = RATIOS.map(([label, long, short]) => {
    const pair = turn([whole((long * own.width) / 1024), whole((short * own.height) / 1024)]);
    return [turn(label.split(":")).join(":"), ...pair, pair[0] === w && pair[1] === h && !(image && isOpen)];
  });
  if (image) chips.unshift(["Image", ...sides, isOpen]);
  $("ratios").replaceChildren(...chips.map(([label, long, short, ariaPressed], place) => {
    const shape = node("i"), scale = 20 / Math.max(long, short), title = `${long} × ${short}`;
    Object.assign(shape.style, { width: `${long * scale}px`, height: `${short * scale}px` });
    const onclick = () => {
      [width.value, height.value] = image && !place ? ["", ""] : [long, short];
      changed();
      $("ratios").children[place].focus();
    };
    return node("button", { type: "button", title, ariaPressed, ariaLabel: `${label}, ${title}`, onclick }, shape, label);
  }));
}

function changed() {
  keep();
  refresh();
}

function showLists() {
  const row = (name, remove, ...parts) => node("li", {}, ...parts, closeButton(`Remove ${name}`, () => {
    remove();
    showLists();
  }));
  $("added").replaceChildren(...kinds.flatMap((kind) => kept[kind].map((entry, place) => {
    const remove = () => {
      kept[kind].splice(place, 1);
      keepPicture(entry.picture);
    };
    return row(nameOf(kind, entry), remove, ...card(kind, entry));
  })));
  // arguments without a control, which come from an image and go to the next job
  $("more").replaceChildren(...Object.entries(kept.more).map(([name, value]) =>
    row(name, () => delete kept.more[name], node("code", {}, `${name} ${JSON.stringify(value)}`)),
  ));
  changed();
}

// ---- LoRAs, controls and references, as the API has them; `picture` is the key of an image

const RANGE = { scale: 1, start: 0, end: 1 };
const ADDED = {
  loras: { list: "loras", name: "file", knobs: () => ({ weight: 1 }) },
  control: { list: "controls", name: "net", knobs: (known) => ({ type: known?.types ?? [], preprocess: service.preprocessors, ...RANGE, guess: false }) },
  reference: { list: "references", name: "adapter", knobs: () => ({ only: ["style", "layout"], ...RANGE, scale: 0.6 }) },
};
const kinds = Object.keys(ADDED), pictures = new Map(); // by key: { file, url }
const nameOf = (kind, entry) => entry[ADDED[kind].name];
const takesPicture = (kind) => kind !== "loras";

function keepPicture(key, file) {
  if (pictures.has(key)) URL.revokeObjectURL(pictures.get(key).url);
  pictures.delete(key);
  if (file) pictures.set(key, { file, url: URL.createObjectURL(file) });
  if (key) keepFile(key, file);
  return pictures.get(key)?.url;
}

function card(kind, entry) {
  const title = nameOf(kind, entry), url = pictures.get(entry.picture)?.url;
  const known = service[ADDED[kind].list].find((each) => each.name === title);
  const knobs = Object.entries(ADDED[kind].knobs(known)).filter(([, value]) => value.length !== 0);
  const labels = knobs.map(([field, value]) => node("label", {}, field, knob(entry, field, value)));
  const group = node("div", { role: "group", ariaLabel: title }, node("span", {}, title), ...labels);
  if (!takesPicture(kind)) return [group];
  const input = node("input", { type: "file", ariaLabel: `Image of ${title}` });
  const button = node("label", { className: "file button", title: input.ariaLabel }, input);
  if (url) button.prepend(node("img", { src: url, alt: "" }));
  else addIcon(button, "image");
  button.pick = async (file) => {
    const read = await readImage(file);
    keepPicture((entry.picture ??= secret()), read.file);
    delete entry.image_hash; // of the image that a recorded one was made with
    showLists();
  };
  onFile(input, button.pick);
  return [button, group];
}

/** A control for one of several choices, for yes or no, or for a number with a default. */
function knob(entry, field, value) {
  const now = entry[field] ?? "", choices = Array.isArray(value) && [...new Set(["", ...value, now])];
  const input = choices
    ? node("select", {}, ...choices.map((each) => node("option", { value: each, textContent: each || "–" })))
    : node("input", { type: value === false ? "checkbox" : "number", step: 0.05, placeholder: value, checked: now });
  input.value = now;
  input.oninput = () => {
    const chosen = { checkbox: input.checked, number: input.valueAsNumber }[input.type] ?? input.value;
    entry[field] = chosen;
    if (!chosen && chosen !== 0) delete entry[field];
  };
  return input;
}

function onFile(input, act) {
  input.accept = "image/*";
  input.onchange = () => {
    const [file] = input.files;
    input.value = ""; // it can be chosen again
    if (file) act(file).catch(complain);
  };
}

const readParameters = (file) => ask("api/parameters", formOf({ image: file }));

/** Take the parameters of an image into the controls. */
function fill({ arguments: { hires, ...given }, sources, missing }) {
  for (const [part, value] of Object.entries(hires ?? {})) given[`hires.${part}`] = value;
  Object.assign(kept, { "only-masked": "mask_padding" in given, hires: Boolean(hires) });
  for (const each of controls) {
    const value = given[each.name], fits = ["string", "number"].includes(typeof value);
    if (fits || each.name !== "model") each.value = fits ? value : "";
    if (fits) delete given[each.name];
  }
  for (const kind of kinds) {
    const old = kept[kind], { name } = ADDED[kind];
    kept[kind] = given[kind] ?? [];
    for (const entry of kept[kind].filter(() => takesPicture(kind))) {
      const place = old.findIndex((each) => each[name] === entry[name] && each.picture);
      if (place >= 0) entry.picture = old.splice(place, 1)[0].picture;
      else missing.push(`the image of ${entry[name]}`);
    }
    for (const each of old) keepPicture(each.picture);
    delete given[kind];
  }
  kept.more = given;
  showLists();
  if (sources.length && !image) missing.unshift("its source image");
  if (missing.length) complain({ message: `What it was made with is not all here: ${missing.join(", ")}.` });
  else say("The parameters are in the controls.");
}

// ---- messages

const say = (message) => ($("said").textContent = message);

function complain(error) {
  if (error instanceof Error && error.status === undefined) console.error(error);
  $("problem").firstChild.textContent = error.message;
  $("problem").hidden = false;
  const at = error.at ?? control(error.argument) ?? $(error.argument);
  if (!at) return;
  at.ariaInvalid = "true";
  at.closest("details")?.setAttribute("open", "");
  at.scrollIntoView({ block: "center" });
}

function calm() {
  $("problem").hidden = true;
  for (const each of all("[aria-invalid]")) each.ariaInvalid = null;
}

// ---- jobs

const jobs = new Map(); // by id, the oldest first; each with `tile`, its place in the gallery, until it is over
const images = new Map(); // by name: { image, job, button, url, file }
const isOver = (job) => !/queued|running/.test(job.status);
const current = () => [...jobs.values()].find((job) => !isOver(job));
const waiting = () => [...jobs.values()].filter((job) => !isOver(job)).slice(1);
const shown = () => images.get(kept.shown);
let follows = true; // whether the running job is looked at, or an image of the gallery
let stream = null;

/** What the controls ask for, as JSON. */
function request(masked) {
  const given = { ...kept.more };
  for (const each of controls) {
    if (each.value.trim()) given[each.name] = each.type === "number" ? Number(each.value) : each.value;
  }
  given.prompt = control("prompt").value;
  if (!image) delete given.strength;
  if (!masked) delete given.feather;
  if (masked && kept["only-masked"]) given.mask_padding ??= 32;
  else delete given.mask_padding;
  for (const kind of kinds) if (kept[kind].length) given[kind] = kept[kind].map(({ picture, ...entry }) => entry);
  if (given.seed === "-1") delete given.seed;
  const hires = {};
  for (const name of Object.keys(given).filter((each) => each.startsWith("hires."))) {
    hires[name.slice(6)] = given[name];
    delete given[name];
  }
  if (kept.hires && !image) given.hires = hires;
  const text = JSON.stringify({ ...given, session: kept.session });
  return text.replace(/"(\w*seed)":" *0*(\d+) *"/g, '"$1":$2');
}

async function generate() {
  if ($("generate").disabled) return;
  $("generate").disabled = true;
  calm();
  try {
    const at = $("added").querySelector(".file:not(:has(img))");
    if (at) throw Object.assign(refusal(`${at.title} is missing. Choose one, or remove it.`), { at });
    const mask = image ? await maskFile() : null;
    const form = formOf({ request: request(mask), ...(image && { image: image.file }), ...(mask && { mask }) });
    for (const kind of kinds.filter(takesPicture)) {
      for (const { picture } of kept[kind]) form.append(kind, pictures.get(picture).file);
    }
    addJob(await ask("api/jobs", form));
    say("The job is in the queue.");
    look();
  } catch (error) {
    complain(error);
  }
  $("generate").disabled = false;
}

function addJob(job, files) {
  jobs.set(job.id, job);
  if (!isOver(job)) {
    const follow = node("button", { onclick: () => look() });
    const drop = closeButton("Drop this job", () => end(job));
    job.tile = node("li", { className: "pending" }, follow, drop);
    $("results").prepend(job.tile);
  }
  job.images.forEach((image, place) => addImage(job, image, files?.[place]));
  if (isOver(job) && !files) keepJob(job);
}

function addImage(job, image, file) {
  if (images.has(image.name)) return;
  const { prompt } = image.request, url = file ? URL.createObjectURL(file) : image.url.slice(1);
  const label = `${prompt || "an image"}, seed ${image.seed}`;
  const picture = node("img", { src: url, alt: label, loading: "lazy" });
  const button = node("button", { title: label, onclick: () => look(image.name) }, picture);
  const item = node("li", {}, button);
  if (job.tile) job.tile.after(item);
  else $("results").prepend(item);
  images.set(image.name, { image, job, button, url, file });
  if (!job.images.includes(image)) job.images.push(image);
}

async function loadFile(entry) {
  const answer = entry.file ?? (await fetch(entry.url));
  if (answer.ok === false) throw refusal("The service has forgotten this image.");
  return (entry.file ??= await answer.blob());
}

/** Keep the images of a job here too, since the service forgets them. */
async function keepJob({ tile, ...job }) {
  const entries = job.images.map(({ name }) => images.get(name));
  const files = await Promise.all(entries.map(loadFile)).catch(() => []);
  files.forEach((file, place) => (entries[place].url = URL.createObjectURL(file)));
  if (files.length) keepFile(["gallery", job.created], { job, files });
  showJobs();
}

/** Take the image that is shown out of the gallery. Its job stays, without it: the service may still know the job. */
function discard() {
  const { image, job, button } = shown(), item = button.parentNode;
  if (!confirm("Remove this image from the gallery?")) return;
  images.delete(image.name);
  job.images = job.images.filter((each) => each !== image);
  const files = job.images.map(({ name }) => images.get(name).file);
  keepFile(["gallery", job.created], { job: { ...job, tile: null }, files });
  const near = [item.nextElementSibling, item.previousElementSibling].find((each) => each?.querySelector("img"));
  item.remove();
  near?.firstChild.focus();
  if (near) near.firstChild.click();
  else look();
}

function look(name) {
  kept.shown = name ?? kept.shown;
  follows = !name;
  keep();
  showJobs();
  refresh();
}

async function end(job, keep_guess = false) {
  job.isEnding = true;
  showJobs();
  try {
    const { status } = await ask(`api/jobs/${job.id}/cancel`, JSON.stringify({ keep_guess }));
    if (status === "cancelled") over(job, status, {});
  } catch (error) {
    job.isEnding = false;
    complain(error);
  }
}

/** Look at the events of the oldest job that is not over; others wait. */
function watch() {
  const job = current();
  if (stream?.job === job) return;
  stream?.close();
  stream = job && Object.assign(new EventSource(`api/jobs/${job.id}/events`), { job });
  if (!job) return;
  const on = (name, act) => stream.addEventListener(name, ({ data }) => {
    act(parse(data));
    showJobs();
  });
  on("queued", (data) => Object.assign(job, data, { status: "queued" }));
  on("step", (data) => {
    const preview = data.preview ?? (data.batch === job.batch ? job.preview : null);
    Object.assign(job, data, { preview, status: "running" });
  });
  on("image", (data) => {
    addImage(job, data);
    if (follows) kept.shown = data.name;
    keep();
  });
  for (const status of ["done", "failed", "cancelled"]) on(status, (data) => over(job, status, data));
  stream.onerror = () => {
    if (stream.readyState === EventSource.CLOSED) stream = null; // else the browser tries again
    showState("lost");
  };
  stream.onopen = () => $("state").dataset.state === "lost" && showState("ready");
}

function over(job, status, { warnings, error }) {
  if (isOver(job)) return;
  Object.assign(job, { status, warnings: warnings ?? job.warnings });
  job.tile.remove();
  job.tile = null;
  keepJob(job);
  if (error) complain(error);
  say({ done: `Done. Images: ${job.images.length}.`, cancelled: "Stopped.", failed: "" }[status]);
  if (service.models.some((each) => each.name === job.model && !each.defaults)) readNames().catch(complain);
  showJobs();
  refresh();
}

function left(seconds) {
  const text = seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} min`;
  return seconds >= 0.5 ? `, ${text} left` : "";
}

function progressText(job) {
  if (job.isEnding) return "Stopping";
  if (job.status === "queued") {
    if (!service.is_ready) return "The model is loading";
    return job.place ? `Waiting, ${job.place} before this` : "Next in the queue";
  }
  if (job.stage === "loading") return `Loading ${job.model}`;
  const of = job.batches > 1 ? `Image ${Math.min(job.batch + 1, job.batches)} of ${job.batches}: ` : "";
  const step = job.stage === "decoding" ? "decoding" : job.steps ? `step ${job.step} of ${job.steps}` : "beginning";
  return (of + step).replace(/^./, (letter) => letter.toUpperCase()) + left(job.seconds_left);
}

function showJobs() {
  watch();
  const job = current(), entry = shown(), isLive = Boolean(job && follows);
  $("progress").hidden = !job; // and the buttons beside it
  if (job) {
    $("progress-text").textContent = progressText(job);
    $("bar").value = job.progress;
    $("skip").hidden = job.batches < 2;
    $("keep").hidden = !job.step;
    const { length } = waiting();
    $("drain").hidden = !length;
    $("drain").textContent = `Drop ${length} waiting`;
    for (const id of ["stop", "keep", "skip"]) $(id).disabled = Boolean(job.isEnding);
  }
  const percent = job && `${Math.round(100 * job.progress)} %`;
  document.title = job ? `${percent} · sdxl` : "sdxl";
  for (const each of jobs.values()) {
    if (!each.tile) continue;
    const button = each.tile.firstChild, isFirst = each === job;
    button.textContent = isFirst ? percent : "waiting";
    button.ariaLabel = isFirst ? "The running job" : "A job in the queue";
    button.ariaCurrent = isLive && isFirst;
    button.title = each.request.prompt;
    each.tile.lastChild.hidden = isFirst;
  }
  for (const [name, { button }] of images) button.ariaCurrent = !isLive && name === kept.shown;
  $("empty").hidden = isLive || Boolean(entry);
  $("frame").hidden = !isLive && !entry;
  $("about").hidden = isLive || !entry;
  $("frame").toggleAttribute("data-preview", isLive && Boolean(job.preview));
  $("shown").hidden = isLive && !job.preview;
  $("frame").removeAttribute("href");
  if (isLive) showImage(job.preview ?? "data:,", "Preview");
  else if (entry) showEntry(entry);
}

function showImage(url, alt) {
  if ($("shown").getAttribute("src") !== url) $("shown").src = url;
  $("shown").alt = alt;
}

function showEntry({ image, job, button, url }) {
  const { request } = image;
  showImage(url, request.prompt || "the image");
  $("caption").textContent = request.prompt;
  const facts = [`seed ${image.seed}`, `${image.width} × ${image.height}`, `${request.steps} steps`];
  facts.push(`${request.sampler} ${request.schedule ?? ""}`, `guidance ${request.guidance_scale}`);
  if (request.image) facts.push(`strength ${request.strength}`);
  if (request.hires) facts.push(`hires fix ${request.hires.upscaler}`);
  if (service.models.length > 1) facts.push(job.model);
  $("facts").textContent = facts.join(" · ");
  $("warnings").replaceChildren(...(job.warnings ?? []).map((textContent) => node("li", { textContent })));
  $("frame").href = $("save").href = url;
  $("save").download = image.name;
  $("discard").hidden = !isOver(job);
  button.scrollIntoView({ block: "nearest" });
}

async function readJobs() {
  const before = [...jobs.values()], { jobs: mine } = await ask(`api/jobs?session=${kept.session}`);
  for (const job of mine) if (!jobs.has(job.id)) addJob(job);
  const lost = before.filter((job) => !mine.some((each) => each.id === job.id)); // by a new start
  for (const job of lost) over(job, "failed", { error: { message: "The service does not know this job any more." } });
  if (!shown()) kept.shown = [...images.keys()].pop() ?? null;
  showJobs();
  refresh();
}

// ---- the source image

let image = null; // { file, width, height }

async function decode(file) {
  try {
    return await createImageBitmap(file);
  } catch {
    throw refusal(`${file.name || "The file"} is no image that this browser can read.`);
  }
}

/** A file, in a form that the service takes, and its size. */
async function readImage(file) {
  let bitmap = await decode(file);
  const scale = Math.min(1, 4096 / Math.sqrt(bitmap.width * bitmap.height));
  if (scale < 1 || file.size > 0.9 * service.limits.max_body || !/png|jpeg|webp/.test(file.type)) {
    const { canvas } = canvasOf(bitmap, Math.floor(bitmap.width * scale), Math.floor(bitmap.height * scale));
    file = await canvas.convertToBlob(scale < 1 || file.size > 4e6 ? { type: "image/jpeg", quality: 0.95 } : {});
    bitmap = canvas;
  }
  return { file, width: bitmap.width, height: bitmap.height };
}

async function open(given, isOwn = false) {
  calm();
  const read = await readImage(given), { file } = read;
  showSource(read);
  $("editor").scrollIntoView();
  redraw();
  const own = defaults(), grown = Math.sqrt((own.width * own.height) / (image.width * image.height));
  const fitting = (side) => (grown < 0.8 ? whole(side * grown) : ""); // not far beyond what the model was trained on
  [width.value, height.value] = [image.width, image.height].map(fitting);
  changed();
  if (isOwn || !(await mayHaveParameters(file))) return;
  const found = await readParameters(file).catch((error) => error);
  if (image?.file !== file || /file has no /.test(found.message)) return;
  $("offer").hidden = false;
  $("offer").firstChild.textContent = found.message ?? "This image has its parameters. ";
  $("take").hidden = found instanceof Error;
  $("take").onclick = () => {
    removeSource();
    fill(found);
  };
}

function showSource({ file, width, height }) {
  image = { file, width, height };
  $("offer").hidden = true;
  $("source").src = keepPicture("image", file);
  $("editor").hidden = false;
  $("brush-size").max = Math.max(200, Math.round(Math.max(width, height) / 2));
  Object.assign(layer, { width, height });
  Object.assign(mask, { base: null, done: [], undone: [] });
  setBrush(Math.min(kept.brush || Math.round(Math.min(width, height) / 8), $("brush-size").max));
  zoom = 1;
  showZoom();
}

function removeSource() {
  image = null;
  $("editor").hidden = true;
  keepPicture("image");
  keepFile("mask");
  width.value = height.value = "";
  changed();
}

/** Whether a file has places in which tools write parameters; most photographs have not. */
async function mayHaveParameters(file) {
  const text = new TextDecoder("latin1").decode(await file.arrayBuffer());
  return /(?:tEXt|iTXt|zTXt)(?:parameters|sdxl|prompt|workflow|Comment|\w*metadata\w*)\0|UNICODE\0|ASCII\0\0\0/.test(text);
}

async function openShown() {
  await open(await loadFile(shown()), true);
}

// ---- the mask: a layer in the image's own pixels, made of operations that can be undone

const INK = "#ff2d78";
const layer = $("mask"), paint = layer.getContext("2d"), viewport = $("viewport");
const mask = { base: null, done: [], undone: [] }; // what is under the operations, and these
const spot = [0, 0]; // of the brush that the keyboard moves, in pixels of the image
let stroke = null, erases = false, zoom = 1, keeping = 0;
const hasMask = () => Boolean(image && (mask.done.at(-1) ?? mask.base ?? { kind: "clear" }).kind !== "clear");

/** A canvas with an image on it, by default of the mask's size. */
function canvasOf(drawn, width = layer.width, height = layer.height) {
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.drawImage(drawn, 0, 0, width, height);
  return context;
}

const pixelsOf = (context) => context.getImageData(0, 0, layer.width, layer.height);

function flood(context, operation, colour) {
  Object.assign(context, { globalCompositeOperation: operation, fillStyle: colour });
  context.fillRect(0, 0, context.canvas.width, context.canvas.height);
}

function apply(operation) {
  if (operation.parts) return operation.parts.forEach((part) => drawPart(operation, part));
  flood(paint, ...(operation.kind === "invert" ? ["xor", INK] : ["copy", "#0000"]));
  if (operation.image) paint.drawImage(operation.image, 0, 0);
}

/** Draw a part of a stroke: again it is drawn in the same parts, since their soft edges add up. */
function drawPart({ size, erases }, part) {
  const globalCompositeOperation = erases ? "destination-out" : "source-over";
  Object.assign(paint, { globalCompositeOperation, lineCap: "round", lineJoin: "round", lineWidth: size, strokeStyle: INK });
  paint.beginPath();
  for (const point of part) paint.lineTo(...point);
  paint.stroke();
}

function redraw() {
  apply({ image: mask.base });
  mask.done.forEach(apply);
  maskChanged();
}

function add(operation) {
  mask.done.push(operation);
  mask.undone = [];
  maskChanged();
}

function doMask(operation) {
  apply(operation);
  add(operation);
}

function moveMask(from, to) {
  if (!from.length || stroke) return;
  to.push(from.pop());
  redraw();
}

const undo = () => moveMask(mask.done, mask.undone);
const redo = () => moveMask(mask.undone, mask.done);

function maskChanged() {
  $("undo").disabled = !mask.done.length;
  $("redo").disabled = !mask.undone.length;
  $("clear").disabled = !hasMask();
  refresh();
  clearTimeout(keeping);
  keeping = setTimeout(() => image && layer.toBlob((blob) => keepFile("mask", hasMask() && blob)), 150);
}

/** The mask, white on black; null where nothing is painted. */
async function maskFile() {
  const context = canvasOf(layer);
  if (!pixelsOf(context).data.some((value, place) => value && place % 4 === 3)) return null;
  flood(context, "source-in", "#fff");
  flood(context, "destination-over", "#000");
  return context.canvas.convertToBlob();
}

/** Take a mask from a file: white is repainted. */
async function openMask(file) {
  const context = canvasOf(await decode(file)), pixels = pixelsOf(context), { data } = pixels;
  for (let i = 0; i < data.length; i += 4) {
    data[i + 3] *= (0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2]) / 255;
  }
  context.putImageData(pixels, 0, 0);
  flood(context, "source-in", INK);
  doMask({ image: context.canvas });
}

function setBrush(size) {
  $("brush-size").value = kept.brush = clamp(1, size, $("brush-size").max);
  $("brush-size").title = `${kept.brush} pixels`;
  keep();
}

function setErase(value) {
  erases = value;
  $("erase").ariaPressed = erases;
  $("brush").ariaPressed = !erases;
}

// ---- its view: zoom is a matter of CSS

function showZoom() {
  if (!image) return;
  const scale = zoom * Math.min(viewport.clientWidth / image.width, viewport.clientHeight / image.height);
  Object.assign($("layers").style, { width: `${image.width * scale}px`, height: `${image.height * scale}px` });
  const percent = `${Math.round(100 * scale)} %`;
  $("fit").textContent = percent;
  $("fit").ariaLabel = `${percent}, fit the image into view`;
}

/** Zoom so that what is at a place of the window stays there. */
function zoomTo(value, x, y) {
  const before = box(layer);
  const [u, v] = [(x - before.left) / before.width, (y - before.top) / before.height];
  zoom = clamp(1, value, 32);
  showZoom();
  const now = box(layer);
  pan(x - now.left - u * now.width, y - now.top - v * now.height);
}

function zoomBy(factor) {
  const { left, top } = box(viewport);
  zoomTo(zoom * factor, left + viewport.clientWidth / 2, top + viewport.clientHeight / 2);
}

function place(event) {
  const { left, top, width, height } = box(layer);
  return [((event.clientX - left) * layer.width) / width, ((event.clientY - top) * layer.height) / height];
}

function showCursor(x, y) {
  const size = (kept.brush * box(layer).width) / layer.width;
  Object.assign($("cursor").style, { width: `${size}px`, height: `${size}px`, left: `${x - size / 2}px`, top: `${y - size / 2}px` });
  $("cursor").hidden = false;
}

function begin([x, y]) {
  stroke = { parts: [[[x, y], [x + 0.01, y]]], size: kept.brush, erases };
  apply(stroke);
}

function extend(points) {
  const part = [stroke.parts.at(-1).at(-1), ...points];
  stroke.parts.push(part);
  drawPart(stroke, part);
}

function finish() {
  if (stroke) add(stroke);
  stroke = null;
}

function pan(x, y) {
  viewport.scrollLeft -= x;
  viewport.scrollTop -= y;
}

const pointers = new Map();
let pinch = null, isPanning = false;

function centre() {
  const [a, b] = [...pointers.values()];
  return { x: (a.clientX + b.clientX) / 2, y: (a.clientY + b.clientY) / 2, far: Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY) };
}

viewport.onpointerdown = (event) => {
  const { left, top } = box(viewport);
  if (event.clientX - left > viewport.clientWidth || event.clientY - top > viewport.clientHeight) return; // a scroll bar
  event.preventDefault();
  layer.focus({ preventScroll: true });
  pointers.set(event.pointerId, event);
  viewport.setPointerCapture(event.pointerId);
  isPanning = event.button === 1;
  if (pointers.size === 2) {
    stroke = null; // of the first finger
    redraw();
    pinch = centre();
  } else if (event.button === 0 && pointers.size === 1) begin(place(event));
};

viewport.onpointermove = (event) => {
  const last = pointers.get(event.pointerId);
  if (last) pointers.set(event.pointerId, event);
  if (event.pointerType === "touch") $("cursor").hidden = true;
  else showCursor(event.clientX, event.clientY);
  if (pinch && last && pointers.size === 2) {
    const before = pinch;
    pinch = centre();
    pan(pinch.x - before.x, pinch.y - before.y);
    zoomTo((zoom * pinch.far) / before.far, pinch.x, pinch.y);
  } else if (last && isPanning) pan(event.clientX - last.clientX, event.clientY - last.clientY);
  else if (last && stroke) {
    const events = event.getCoalescedEvents?.() ?? [];
    extend((events.length ? events : [event]).map(place));
  }
};

viewport.onpointerup = viewport.onpointercancel = (event) => {
  pointers.delete(event.pointerId);
  if (pointers.size) return;
  pinch = null;
  finish();
};

viewport.onpointerleave = () => ($("cursor").hidden = true);
viewport.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  zoomTo(zoom * Math.exp(-event.deltaY / 300), event.clientX, event.clientY);
}, { passive: false });

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

layer.onkeydown = (event) => {
  const arrow = ARROWS[event.key];
  if (arrow) {
    const far = event.shiftKey ? kept.brush : Math.max(1, kept.brush / 4);
    [layer.width, layer.height].forEach((most, axis) => (spot[axis] = clamp(0, spot[axis] + arrow[axis] * far, most)));
    if (stroke) extend([[...spot]]);
  } else if (event.key === " ") {
    if (!event.repeat && !stroke) begin(spot);
  } else if (event.key === "[") setBrush(Math.floor(kept.brush * 0.8));
  else if (event.key === "]") setBrush(Math.ceil(kept.brush * 1.25));
  else if (event.key === "e" && !event.ctrlKey) setErase(!erases);
  else if (event.key === "+" || event.key === "-") zoomBy(event.key === "+" ? 1.25 : 0.8);
  else return;
  event.preventDefault();
  const { left, top, width, height } = box(layer);
  showCursor(left + (spot[0] * width) / layer.width, top + (spot[1] * height) / layer.height);
};
layer.onkeyup = (event) => event.key === " " && finish();
layer.onblur = () => {
  $("cursor").hidden = true;
  if (!pointers.size) finish();
};
layer.onfocus = () => Object.assign(spot, spot[0] ? spot : [layer.width / 2, layer.height / 2]);

// ---- what the controls do

const setSeed = (seed) => ((control("seed").value = seed), changed());
const presses = {
  dice: () => setSeed(""),
  reuse: () => setSeed(shown().image.seed),
  swap: () => {
    [height.value, width.value] = [width, height].map((each) => each.value || each.placeholder);
    changed();
  },
  stop: () => end(current()),
  keep: () => end(current(), true),
  skip: () => ask(`api/jobs/${current().id}/skip`, "{}"),
  drain: () => Promise.all(waiting().map((job) => end(job))),
  again: async () => fill(await readParameters(await loadFile(shown()))),
  start: openShown,
  discard,
  remove: removeSource,
  brush: () => setErase(false),
  erase: () => setErase(!erases),
  undo,
  redo,
  clear: () => hasMask() && doMask({ kind: "clear" }),
  invert: () => doMask({ kind: "invert" }),
  in: () => zoomBy(1.5),
  out: () => zoomBy(1 / 1.5),
  fit: () => zoomBy(0),
  large: () => ($("large").ariaPressed = $("large").ariaPressed !== "true"),
};
for (const [id, act] of Object.entries(presses)) $(id).onclick = () => Promise.resolve(act()).catch(complain);
$("problem").lastChild.onclick = calm;
$("brush-size").oninput = ({ target }) => setBrush(target.valueAsNumber);
listen("input", ({ target }) => {
  target.ariaInvalid = null;
  if (toggles.includes(target)) kept[target.id] = target.checked;
  changed();
});
$("add").onchange = ({ target }) => {
  const { value, selectedOptions } = target, kind = selectedOptions[0].parentNode.id;
  if (value) kept[kind].push({ [ADDED[kind].name]: value });
  target.value = "";
  showLists();
};
$("embedding").onchange = ({ target }) => {
  const area = control("prompt"), at = area.selectionEnd, space = /\S$/.test(area.value.slice(0, at)) ? " " : "";
  area.focus();
  document.execCommand("insertText", false, space + target.value); // which its own undo takes back
  target.value = "";
};
onFile($("upload"), open);
onFile($("mask-upload"), openMask);
$("form").onsubmit = (event) => {
  event.preventDefault();
  generate();
};
$("results").onkeydown = (event) => {
  const way = { ArrowLeft: "previousElementSibling", ArrowRight: "nextElementSibling" }[event.key];
  const next = way && event.target.closest("li")[way]?.firstChild;
  next?.focus();
  next?.click();
};

$("results").onwheel = ({ deltaX, deltaY }) => ($("results").scrollLeft += deltaX ? 0 : deltaY);

listen("keydown", (event) => {
  if (!event.ctrlKey && !event.metaKey) return;
  const key = event.key.toLowerCase(), isText = event.target.matches?.("textarea, input:not([type=range], [type=checkbox])");
  if (key === "enter") generate();
  else if (!image || isText || !/^[yz]$/.test(key)) return;
  else if (key === "y" || event.shiftKey) redo();
  else undo();
  event.preventDefault();
});

const cardAt = ({ target }) => target.closest?.("#added li")?.querySelector(".file");
listen("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  $("drop").firstChild.textContent = cardAt(event)?.title ?? "Drop the image";
  $("drop").hidden = false;
});
listen("dragleave", (event) => event.relatedTarget || ($("drop").hidden = true));
for (const type of ["drop", "paste"]) {
  listen(type, (event) => {
    $("drop").hidden = true;
    const [file] = (event.dataTransfer ?? event.clipboardData).files;
    if (!file) return;
    event.preventDefault();
    (cardAt(event)?.pick ?? open)(file).catch(complain);
  });
}

new ResizeObserver(showZoom).observe(viewport);

async function restoreGallery() {
  const old = (await inStore((files) => files.getAll(IDBKeyRange.bound(["gallery"], ["gallery", []])))) ?? [];
  for (const { job } of old.splice(0, old.length - 100)) keepFile(["gallery", job.created]);
  for (const { job, files } of old) addJob(job, files);
}

async function restoreImages() {
  for (const { picture } of kinds.flatMap((kind) => kept[kind])) {
    const file = picture && (await keptFile(picture));
    if (file) keepPicture(picture, file);
  }
  showLists();
  const [file, layered] = await Promise.all([keptFile("image"), keptFile("mask")]);
  if (!file || image) return;
  const bitmap = await createImageBitmap(file);
  showSource({ file, width: bitmap.width, height: bitmap.height });
  if (layered) mask.base = await createImageBitmap(layered);
  redraw();
}

for (const each of controls) if (each.name in kept.fields) each.value = kept.fields[each.name];
showLists();
restoreImages().catch(complain);
document.onvisibilitychange = () => document.hidden || readServer();
restoreGallery().finally(readServer);
