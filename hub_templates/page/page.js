// The form, the conversation and the files that a visitor chooses. `worker.js` runs the model.
const element = (id) => document.getElementById(id);
const settings = await (await fetch("settings.json", { cache: "no-cache" })).json();
const worker = new Worker("worker.js", { type: "module" });
const KINDS = { image: "Show an image, or write a question.", chat: "Write something first.", text: "Write something first." };
const MOST_PIXELS = 50_000_000;
let history = []; // messages, in the form of chat templates
let images = []; // of the history: {data, width, height}
let chosen = []; // of the next turn: {images, video, url, name}
let answering = null; // paragraph of the answer that is being written
let ready = false;
let reading = 0; // calls of `choose` that have not ended: nothing is sent without their files

function say(problem) {
  element("problem").textContent = problem;
}

function update() {
  element("send").disabled = !ready || answering !== null || reading > 0;
  element("stop").hidden = answering === null;
  element("clear").disabled = answering !== null;
}

// -- images and videos --------------------------------------------------------------------------------------------

// RGB bytes of a bitmap or a video's current frame, with white behind transparent parts.
function pixelsOf(source, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(source, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8ClampedArray(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    data[to] = rgba[from];
    data[to + 1] = rgba[from + 1];
    data[to + 2] = rgba[from + 2];
  }
  return { data, width, height };
}

async function readImage(file, name) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error(`${name} cannot be read as an image: choose another file.`);
  }
  if (bitmap.width * bitmap.height > MOST_PIXELS) throw new Error(`${name} is too large: make it smaller.`);
  return { images: [pixelsOf(bitmap, bitmap.width, bitmap.height)], url: URL.createObjectURL(file), name };
}

function happened(target, name) {
  return new Promise((resolve, reject) => {
    target.addEventListener(name, resolve, { once: true });
    target.addEventListener("error", reject, { once: true });
  });
}

// Frames at even distances, as training chooses them.
async function readVideo(file, name) {
  const video = document.createElement("video");
  video.muted = true;
  video.preload = "auto";
  video.src = URL.createObjectURL(file);
  try {
    await happened(video, "loadeddata");
  } catch {
    throw new Error(`${name} cannot be read as a video: choose another file.`);
  }
  const { fps, max_frames } = settings.video;
  const duration = video.duration;
  if (!Number.isFinite(duration)) throw new Error(`${name} states no duration: save it again as MP4 or WebM.`);
  const count = Math.max(1, Math.min(Math.round(duration * fps), max_frames));
  const last = Math.max(duration - 1 / 30, 0);
  const times = Array.from({ length: count }, (_, index) => (count === 1 ? last / 2 : (last * index) / (count - 1)));
  const frames = [];
  for (const time of times) {
    const seeked = happened(video, "seeked");
    video.currentTime = time;
    await seeked;
    frames.push(pixelsOf(video, video.videoWidth, video.videoHeight));
  }
  return { images: frames, video: { duration, times }, url: URL.createObjectURL(await thumbnail(frames[0])), name };
}

function thumbnail({ data, width, height }) {
  const canvas = new OffscreenCanvas(width, height);
  const picture = new ImageData(width, height);
  for (let from = 0, to = 0; from < data.length; from += 3, to += 4) {
    picture.data.set([data[from], data[from + 1], data[from + 2], 255], to);
  }
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return canvas.convertToBlob();
}

const ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen " +
  "seventeen eighteen nineteen").split(" ");
const TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split(" ");

function inWords(number) {
  if (number < 20) return ONES[number];
  if (number < 100) return TENS[Math.floor(number / 10)] + (number % 10 ? `-${ONES[number % 10]}` : "");
  return `${ONES[Math.floor(number / 100)]} hundred${number % 100 ? ` and ${inWords(number % 100)}` : ""}`;
}

const twoDigits = (number) => String(Math.floor(number)).padStart(2, "0");

// A video as texts and images of a message, in the words of transformers' SmolVLM processor.
function partsOfVideo({ duration, times }) {
  const clock = `${Math.floor(duration / 3600)}:${twoDigits((duration / 60) % 60)}:${twoDigits(duration % 60)}`;
  let text = `You are provided the following series of ${inWords(times.length)} frames from a ${clock} [H:MM:SS] video.\n`;
  const parts = [];
  for (const time of times) {
    text += `\nFrame from ${twoDigits(time / 60)}:${twoDigits(time % 60)}:`;
    parts.push({ type: "text", text }, { type: "image" });
    text = "";
  }
  return [...parts, { type: "text", text: "\n\n" }];
}

async function choose(files) {
  reading += 1;
  update();
  for (const [file, name] of files) {
    try {
      chosen.push(await (file.type.startsWith("video/") ? readVideo : readImage)(file, name));
      say("");
    } catch (error) {
      say(error.message);
    }
  }
  reading -= 1;
  update();
  showChosen();
}

function showChosen() {
  element("chosen")?.replaceChildren(
    ...chosen.map((file) => {
      const item = document.createElement("li");
      const remove = document.createElement("button");
      remove.type = "button";
      remove.textContent = "Remove";
      remove.setAttribute("aria-label", `Remove ${file.name}`);
      remove.addEventListener("click", () => {
        chosen = chosen.filter((other) => other !== file);
        showChosen();
      });
      item.append(shown(file), remove);
      return item;
    }),
  );
}

function shown(file) {
  const image = document.createElement("img");
  image.src = file.url;
  image.alt = file.video ? `${file.name}, ${file.images.length} frames` : file.name;
  return image;
}

// -- turns --------------------------------------------------------------------------------------------------------

function addTurn(role, text, files = []) {
  const turn = document.createElement("article");
  const heading = document.createElement("h2");
  const paragraph = document.createElement("p");
  turn.className = role;
  heading.textContent = role === "user" ? "You" : "Model";
  paragraph.textContent = text;
  turn.append(heading, ...files.map(shown), paragraph);
  element("conversation").append(turn);
  return paragraph;
}

// Returns the reason why a turn cannot be sent; empty if it can.
function problemOf(text) {
  if (text.trim() === "" && chosen.length === 0) return KINDS[settings.kind];
  const marker = settings.special_tokens.find((token) => text.includes(token));
  if (marker) return `${marker} is a marker of the model, not text: remove it.`;
  const videos = chosen.filter((file) => file.video).length + (history.some((turn) => turn.video) ? 1 : 0);
  if (videos > 1 || (videos === 1 && chosen.length + images.length > (chosen.length ? 1 : images.length))) {
    return "A conversation shows images or one video: begin a new conversation.";
  }
  return "";
}

function send(text) {
  const problem = reading > 0 ? "Wait until the files are read." : problemOf(text);
  say(problem);
  if (problem || answering !== null || !ready) return;
  if (settings.kind === "text") history = [];
  const parts = chosen.flatMap((file) => (file.video ? partsOfVideo(file.video) : [{ type: "image" }]));
  const content = settings.kind === "image" ? [...parts, { type: "text", text }] : text;
  history.push({ role: "user", content, video: chosen.some((file) => file.video) });
  images.push(...chosen.flatMap((file) => file.images));
  addTurn("user", text, chosen);
  answering = addTurn("assistant", settings.kind === "text" ? text : "");
  chosen = [];
  element("text").value = "";
  showChosen();
  update();
  const messages = history.map(({ role, content }) => ({ role, content }));
  worker.postMessage({ type: "answer", messages, images, frames: history.some((turn) => turn.video) });
}

function finish(problem = "") {
  if (answering !== null) {
    const text = answering.textContent;
    if (problem) {
      history.pop(); // the turn that was not answered
      answering.parentElement.remove();
    } else {
      history.push({ role: "assistant", content: settings.kind === "image" ? [{ type: "text", text }] : text });
    }
  }
  answering = null;
  say(problem);
  update();
}

function clear() {
  history = [];
  images = [];
  element("conversation").replaceChildren();
  say("");
}

worker.addEventListener("error", (event) => finish(`The page cannot run the model: ${event.message ?? "see the console"}`));
worker.addEventListener("message", ({ data }) => {
  if (data.type === "started") worker.postMessage({ type: "load" });
  else if (data.type === "progress") {
    element("progress").value = data.fraction;
    element("status").textContent = `Loading the model: ${Math.round(data.fraction * 100)} %`;
  } else if (data.type === "ready") {
    ready = true;
    element("progress").hidden = true;
    element("status").textContent = `Ready (${data.device === "webgpu" ? "WebGPU" : "WebAssembly"}, ${data.precision}).`;
    update();
  } else if (data.type === "text") answering?.append(data.text);
  else if (data.type === "done") finish();
  else finish(data.message);
});

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  send(element("text").value);
});
element("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    send(element("text").value);
  }
});
element("stop").addEventListener("click", () => worker.postMessage({ type: "stop" }));
element("clear").addEventListener("click", clear);
element("files")?.addEventListener("change", async ({ target }) => {
  await choose([...target.files].map((file) => [file, file.name]));
  target.value = "";
});

for (const example of settings.examples) {
  const button = document.createElement("button");
  button.type = "button";
  for (const path of example.images ?? []) {
    const image = document.createElement("img");
    image.src = path;
    image.alt = "";
    button.append(image);
  }
  button.append(example.text);
  button.addEventListener("click", async () => {
    if (!ready || answering !== null) return;
    clear();
    chosen = [];
    for (const path of example.images ?? []) {
      await choose([[await (await fetch(path)).blob(), path.split("/").pop()]]);
    }
    send(example.text);
  });
  element("examples").append(button);
  element("examples").hidden = false;
}
update();
