// Reads one JSON line {"secret", "headers", "body_base64"} and prints "verified", or the library's refusal.
import { readFileSync } from "node:fs";
import { Webhook } from "standardwebhooks";

const { secret, headers, body_base64 } = JSON.parse(readFileSync(0, "utf8"));
try {
  new Webhook(secret).verify(Buffer.from(body_base64, "base64").toString("utf8"), headers);
  console.log("verified");
} catch (error) {
  console.log(`${error.name}: ${error.message}`);
  process.exitCode = 1;
}
