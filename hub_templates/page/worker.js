// Loads the model and answers conversations, outside the thread that draws the page.
import {
  AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, InterruptableStoppingCriteria,
  RawImage, TextStreamer, env,
} from "./transformers.js/transformers.min.js";

const MODEL = "model"; // folder next to this file
const here = new URL("./", self.location.href).href;
const settings = await (await fetch(`${here}settings.json`, { cache: "no-cache" })).json();
const stopping = new InterruptableStoppingCriteria();
let model, processor, tokenizer;

// Every file comes from this folder. The library chose the build of its runtime that this browser supports.
env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = new URL("./", self.location.href).pathname;
env.useBrowserCache = false; // its keys are paths, so another model at this path would be hidden by an old one
env.useWasmCache = false;
const runtime = env.backends.onnx.wasm.wasmPaths;
for (const kind of ["mjs", "wasm"]) {
  runtime[kind] = `${here}transformers.js/${runtime[kind].split("/").pop()}`;
}

async function hasWebGPU() {
  try {
    return Boolean(await navigator.gpu?.requestAdapter());
  } catch {
    return false;
  }
}

// [device, precision] in the order to try. `settings.sizes` names the precisions that exist.
async function choices() {
  const first = (names) => names.find((name) => name in settings.sizes);
  const gpu = first(["q4", "fp32"]); // 8-bit products have no kernel for WebGPU
  const found = gpu && (await hasWebGPU()) ? [["webgpu", gpu]] : [];
  return [...found, ["wasm", first(["q8", "q4", "fp32"])]];
}

async function load(options) {
  const loaded = {};
  const total = (precision) => settings.sizes[precision];
  const kind = settings.kind === "image" ? AutoModelForImageTextToText : AutoModelForCausalLM;
  if (settings.kind === "image") {
    processor = await AutoProcessor.from_pretrained(MODEL);
    tokenizer = processor.tokenizer;
  } else {
    tokenizer = await AutoTokenizer.from_pretrained(MODEL);
  }
  const tried = options.device ? [[options.device, options.precision]] : await choices();
  for (const [device, dtype] of tried) {
    const progress_callback = ({ status, file, loaded: bytes }) => {
      if (status !== "progress" || !file.endsWith(".onnx")) return;
      loaded[file] = bytes;
      const sum = Object.values(loaded).reduce((one, other) => one + other, 0);
      self.postMessage({ type: "progress", fraction: Math.min(sum / total(dtype), 1) });
    };
    try {
      model = await kind.from_pretrained(MODEL, { device, dtype, progress_callback });
      return self.postMessage({ type: "ready", device, precision: dtype });
    } catch (error) {
      if (device === tried.at(-1)[0]) throw error; // otherwise WebGPU failed, and wasm is next
    }
  }
}

// Inputs of the model. `images` are {data, width, height} with RGB bytes, in the order of the messages' image parts.
async function encode({ messages, images, frames }) {
  if (settings.kind === "text") return tokenizer(messages.at(-1).content);
  if (settings.kind === "chat") {
    return tokenizer.apply_chat_template(messages, { add_generation_prompt: true, return_dict: true });
  }
  const text = processor.apply_chat_template(messages, { add_generation_prompt: true });
  if (images.length === 0) return tokenizer(text, { add_special_tokens: false });
  const pixels = images.map(({ data, width, height }) => new RawImage(new Uint8ClampedArray(data), width, height, 3));
  return processor(text, pixels, frames ? { do_image_splitting: false } : {});
}

async function answer(request) {
  const inputs = await encode(request);
  const length = inputs.input_ids.dims.at(-1);
  const room = settings.positions - length;
  if (room < 1) {
    throw new Error(`The conversation has ${length} tokens, and the model reads ${settings.positions}: make it shorter.`);
  }
  stopping.reset();
  const streamer = new TextStreamer(tokenizer, {
    skip_prompt: true,
    callback_function: (text) => self.postMessage({ type: "text", text }),
  });
  const output = await model.generate({
    ...inputs,
    max_new_tokens: Math.min(request.newTokens ?? settings.new_tokens, room),
    do_sample: false,
    streamer,
    stopping_criteria: stopping,
  });
  const tokens = Array.from(output.data, Number).slice(length);
  self.postMessage({ type: "done", tokens, promptTokens: length });
}

self.addEventListener("message", async ({ data }) => {
  if (data.type === "stop") return stopping.interrupt();
  try {
    await (data.type === "load" ? load(data) : answer(data));
  } catch (error) {
    self.postMessage({ type: "error", message: String(error?.message ?? error) });
  }
});
self.postMessage({ type: "started" });
