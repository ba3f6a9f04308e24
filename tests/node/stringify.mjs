// One JSON array of strings on stdin; for each, what JSON.stringify makes of it, as a JSON array on stdout.
// "bits:<16 hex digits>" is a double given by its bits, "iso:<ms>" a Date, anything else a JSON text to parse.
import { readFileSync } from "node:fs";

const convert = (text) => {
  if (text.startsWith("bits:")) return JSON.stringify(Buffer.from(text.slice(5), "hex").readDoubleBE(0));
  if (text.startsWith("iso:")) return JSON.stringify(new Date(Number(text.slice(4))));
  return JSON.stringify(JSON.parse(text));
};
process.stdout.write(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(convert)));
