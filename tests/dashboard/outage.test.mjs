// Test of an outage in a browser: DASHBOARD_URL=... CHURN='["churn", "--models", ...]' node --test
// outage.test.mjs
// The test starts and kills the churn service; the gateway and the other services run already.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { after, before, test } from "node:test";
import { card, figure, launch, requirePages, open, settled } from "./browser.mjs";

const GATEWAY = process.env.DASHBOARD_URL;
const [command, ...args] = JSON.parse(process.env.CHURN);
await requirePages(GATEWAY);

let browser, churn;
before(async () => (browser = await launch()));
after(async () => {
  churn?.kill("SIGKILL");
  await browser.close();
});
const start = () => (churn = spawn(command, args, { stdio: "ignore" }));
const kill = async () => {
  churn.kill("SIGKILL");
  await once(churn, "exit");
};

test("a service that is down shows an alert, the rest of the page works, and the alert goes when it is back", async () => {
  start();
  const { page, errors, close } = await open(browser, GATEWAY, "customer?id=14911");
  await figure(page, "Chance").waitFor();

  await kill();
  // Another customer, because the answer about the first may come from the cache.
  await page.goto(`${GATEWAY}/#/customer?id=17841`);
  const risk = card(page, "Churn risk");
  await risk.getByRole("alert").waitFor();
  assert.match(await risk.innerText(), /not answering/);
  assert.equal(await page.getByRole("alert").count(), 1, "only the churn card fails");
  await card(page, "Segment").locator(".strategy").waitFor();
  await figure(page, "Revenue").waitFor();
  await page.goto(`${GATEWAY}/#/system`);
  await page.locator("tr", { hasText: "Churn" }).getByText("No answer").waitFor();

  await page.goto(`${GATEWAY}/#/customer?id=17841`);
  await risk.getByRole("alert").waitFor();
  start();
  await figure(page, "Chance").waitFor();
  await settled(page);
  assert.equal(await page.getByRole("alert").count(), 0);
  assert.deepEqual(errors, []);
  await close();
});
