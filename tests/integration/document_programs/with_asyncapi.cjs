// The official parser of AsyncAPI, with its rules.
const { readFileSync } = require("node:fs");
const { Parser } = require("@asyncapi/parser");

(async () => {
  const { document, diagnostics } = await new Parser().parse(readFileSync(0, "utf8"));
  const found = diagnostics.map(({ severity, code, message, path }) => ({ severity, code, message, path }));
  console.log(JSON.stringify({ version: document ? document.version() : null, diagnostics: found }));
})();
