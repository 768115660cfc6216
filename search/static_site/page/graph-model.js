// Computes vectors with a graph in eight bits, with ONNX Runtime and its tokenizers.

import { readPackedBytes, readPackedJson } from "./files.js";
import { env, InferenceSession, Tensor } from "./onnxruntime.mjs";
import { Tokenizer } from "./tokenizers.mjs";

const OUTPUT = "sentence_embedding";

export class GraphModel {
  static async read({ graph, runtime, tokenizer }) {
    const [bytes, binary, [content, settings]] = await Promise.all([
      readPackedBytes(graph),
      readPackedBytes(runtime),
      readPackedJson(tokenizer),
    ]);
    // More threads need headers that few web hosts send.
    Object.assign(env.wasm, { wasmBinary: binary, numThreads: 1 });
    const session = await InferenceSession.create(new Uint8Array(bytes), { executionProviders: ["wasm"] });
    return Object.assign(new GraphModel(), { session, tokenizer: new Tokenizer(content, settings) });
  }

  async vector(text, { max_length: most, channels }) {
    let { ids } = this.tokenizer.encode(text);
    // The last token is the one that ends texts.
    if (ids.length > (most ?? Infinity)) ids = [...ids.slice(0, most - 1), ids.at(-1)];
    const tensor = (values) => new Tensor("int64", BigInt64Array.from(values, BigInt), [1, ids.length]);
    const values = { input_ids: ids, attention_mask: ids.map(() => 1), token_type_ids: ids.map(() => 0) };
    const inputs = Object.fromEntries(this.session.inputNames.map((name) => [name, tensor(values[name])]));
    const outputs = await this.session.run(inputs, [OUTPUT]);
    return outputs[OUTPUT].data.slice(0, channels);
  }
}
