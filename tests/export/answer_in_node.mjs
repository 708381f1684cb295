// node answer_in_node.mjs NODE_MODULES FOLDER PRECISION CASES: prints the ids of prompts and of greedy answers.
import fs from "node:fs";
import path from "node:path";

const [modules, folder, dtype, cases] = process.argv.slice(2);
const library = path.join(modules, "@huggingface", "transformers", "dist", "transformers.node.mjs");
const { AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, env, load_image } =
  await import(library);
env.allowRemoteModels = false;
env.localModelPath = `${path.dirname(folder)}/`;
env.useFSCache = false;
const id = path.basename(folder);
const seesImages = fs.existsSync(path.join(folder, "preprocessor_config.json"));
const processor = seesImages ? await AutoProcessor.from_pretrained(id) : null;
const tokenizer = seesImages ? processor.tokenizer : await AutoTokenizer.from_pretrained(id);
const kind = seesImages ? AutoModelForImageTextToText : AutoModelForCausalLM;
const model = await kind.from_pretrained(id, { dtype });
const answers = [];
for (const { text, images } of JSON.parse(fs.readFileSync(cases, "utf-8"))) {
  let inputs;
  if (seesImages) {
    const content = [...images.map(() => ({ type: "image" })), { type: "text", text }];
    const prompt = processor.apply_chat_template([{ role: "user", content }], { add_generation_prompt: true });
    inputs = await processor(prompt, await Promise.all(images.map((image) => load_image(image))));
  } else {
    inputs = tokenizer(text);
  }
  const output = await model.generate({ ...inputs, max_new_tokens: 24, do_sample: false });
  const length = inputs.input_ids.dims.at(-1);
  const all = Array.from(output.data, Number);
  answers.push({ prompt: all.slice(0, length), tokens: all.slice(length) });
}
console.log(JSON.stringify(answers));
