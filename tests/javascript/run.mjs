// Runs programs that import "@huggingface/transformers", in Node or in Chromium, and prints as JSON what each logs.
//
//     node run.mjs PACKAGES RELEASE PLACE MODELS PROGRAMS
//
// PACKAGES is the node_modules folder, RELEASE the package in it that stands for "@huggingface/transformers", PLACE
// `node` or the path of Chromium, MODELS the folder with the folders of models, and PROGRAMS that with the programs.

import { createReadStream, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import path from "node:path";
import { pathToFileURL } from "node:url";

const NAME = "@huggingface/transformers";
const TYPES = {
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".json": "application/json",
  ".wasm": "application/wasm",
};
const [packages, release, place, models, programs] = process.argv.slice(2);
const names = readdirSync(programs).filter((name) => name.endsWith(".mjs")).sort();
const results = place === "node" ? await inNode() : await inChromium(place);
// A pipe takes long results in parts.
process.stdout.write(JSON.stringify(results), () => process.exit(0));

async function inNode() {
  const module = pathToFileURL(path.join(packages, release, "dist", "transformers.node.mjs")).href;
  const { env } = await import(module);
  Object.assign(env, { localModelPath: models, allowRemoteModels: false });
  const results = {};
  const { log, warn } = console;
  for (const name of names) {
    const found = (results[name] = { logged: [], warnings: [] });
    const file = path.join(programs, name.replace(".mjs", `.${release.replace(/\W/g, "-")}.js`));
    writeFileSync(file, readFileSync(path.join(programs, name), "utf8").replaceAll(`"${NAME}"`, `"${module}"`));
    console.log = (value) => found.logged.push(value);
    console.warn = (...values) => found.warnings.push(values.join(" "));
    await import(pathToFileURL(file).href).catch((error) => (found.error = String(error?.stack ?? error)));
  }
  Object.assign(console, { log, warn });
  return results;
}

async function inChromium(executablePath) {
  const server = createServer(serve).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const host = `http://127.0.0.1:${server.address().port}`;
  const module = pathToFileURL(path.join(packages, "puppeteer-core", "lib", "esm", "puppeteer", "puppeteer-core.js"));
  const { default: puppeteer } = await import(module.href);
  const browser = await puppeteer.launch({ executablePath, headless: true, args: ["--no-sandbox"] });
  try {
    const results = {};
    for (const name of names) {
      const page = await browser.newPage();
      const found = (results[name] = { warnings: [], elsewhere: [] });
      page.on("request", (request) => {
        const url = request.url();
        if (!url.startsWith(host) && !/^(blob|data|about):/.test(url)) found.elsewhere.push(url);
      });
      page.on("console", (message) => {
        // Chromium warns that the machine has no GPU.
        if (message.type() === "warn" && message.text() !== "No available adapters.") found.warnings.push(message.text());
      });
      await page.goto(`${host}/page`);
      Object.assign(found, await page.evaluate((program) => globalThis.run(program), `/programs/${name}`));
      await page.close();
    }
    return results;
  } finally {
    await browser.close();
    server.close();
  }
}

// The package that another package imports, which npm installs beside it or inside it.
function imported(name) {
  const inside = path.join(release, "node_modules", name);
  return existsSync(path.join(packages, inside)) ? inside : name;
}

function page() {
  const web = `/packages/${imported("onnxruntime-web")}/dist/`;
  const imports = {
    [NAME]: `/packages/${release}/dist/transformers.web.js`,
    "onnxruntime-web/webgpu": `${web}ort.webgpu.bundle.min.mjs`,
    "onnxruntime-common": `/packages/${imported("onnxruntime-common")}/dist/esm/index.js`,
  };
  return `<!doctype html>
<script type="importmap">${JSON.stringify({ imports })}</script>
<script>
globalThis.run = async (program) => {
  const { env } = await import("${NAME}");
  Object.assign(env, { allowLocalModels: true, localModelPath: "/models/", allowRemoteModels: false });
  Object.assign(env, { useBrowserCache: false, useWasmCache: false });
  Object.assign(env.backends.onnx.wasm, { wasmPaths: "${web}", numThreads: 1 });
  const logged = [];
  console.log = (value) => logged.push(value);
  const error = await import(program).then(() => undefined, (error) => String(error?.stack ?? error));
  return { logged, error };
};
</script>`;
}

function serve(request, response) {
  const { pathname } = new URL(request.url, "http://127.0.0.1");
  if (pathname === "/page") return response.writeHead(200, { "content-type": "text/html" }).end(page());
  const [, root, ...rest] = decodeURIComponent(pathname).split("/");
  const folder = { packages, models, programs }[root];
  const file = folder && path.join(folder, ...rest);
  if (!file?.startsWith(folder) || !existsSync(file) || !statSync(file).isFile()) return response.writeHead(404).end();
  const type = TYPES[path.extname(file)] ?? "application/octet-stream";
  response.writeHead(200, { "content-type": type, "content-length": statSync(file).size });
  if (request.method === "HEAD") return response.end();
  createReadStream(file).pipe(response);
}
