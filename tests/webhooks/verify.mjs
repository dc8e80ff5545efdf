// Has the published library of Standard Webhooks verify requests, each as of the time it was signed at.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [requests, packages] = process.argv.slice(2);
const { Webhook } = createRequire(`${packages}/`)("standardwebhooks");
let verified = 0;
const refused = [];
let request;
for (const line of readFileSync(requests, "utf8").split("\n").filter(Boolean)) {
  request = JSON.parse(line);
  Date.now = () => Number(request.headers["webhook-timestamp"]) * 1000;
  try {
    new Webhook(request.secret).verify(request.body, request.headers);
    verified += 1;
  } catch (error) {
    refused.push(`${request.headers["webhook-id"]}: ${error}`);
  }
}
// One that is not ours must not pass, or nothing above says anything.
try {
  new Webhook(request.secret).verify(`${request.body} `, request.headers);
  refused.push("a body that was changed was accepted");
} catch {}
console.log([`${verified} verified, ${refused.length} refused`, ...refused.slice(0, 5)].join("\n"));
process.exit(refused.length || !verified ? 1 : 0);
