// Keys, seen in a browser: DASHBOARD_URL=... node --test keys.test.mjs, against a gateway that knows two keys: `sesame` may look,
// `open sesame` may publish as well.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { card, figure, launch, needsPages, open } from "./browser.mjs";

const GATEWAY = process.env.DASHBOARD_URL;
await needsPages(GATEWAY);

let browser;
before(async () => (browser = await launch()));
after(() => browser.close());

/** Shows a key to the dialog that asks for one. */
async function show(page, key) {
  const dialog = page.getByRole("dialog", { name: "API key" });
  await dialog.getByLabel("Key").fill(key);
  await dialog.getByRole("button", { name: "Continue" }).click();
}

test("a key is asked for, a wrong one again, and the right one is kept in this tab alone", async () => {
  const { page, wrong, close } = await open(browser, GATEWAY, "segments");
  const dialog = page.getByRole("dialog", { name: "API key" });
  await show(page, "abracadabra");
  await dialog.getByText("The server does not know this key.").waitFor();
  await show(page, "sesame");
  await page.getByRole("heading", { name: "Champions" }).waitFor();
  assert.deepEqual(
    await page.evaluate(() => [
      sessionStorage.getItem("key"),
      JSON.stringify(localStorage).includes("sesame"),
    ]),
    ["sesame", false],
  );
  // Its figures of the gateway's own need the key as well.
  await page.getByRole("link", { name: "System" }).click();
  await figure(page, "Calls").waitFor();
  await page.getByRole("button", { name: "Forget the key" }).click();
  await dialog.waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.getItem("key")), null);
  assert.deepEqual(
    wrong.filter((said) => !said.includes("status of 401")),
    [],
  );
  await close();
});

test("who may look alone is told so when they publish, and nothing has changed", async () => {
  const { page, close } = await open(browser, GATEWAY, "models?model=segmentation");
  await show(page, "sesame");
  const versions = card(page, "Versions");
  const buttons = versions.getByRole("button", { name: /^Make current: / });
  await buttons.first().click();
  const dialog = page.getByRole("dialog", { name: "Make this version current?" });
  await dialog.getByRole("button", { name: "Make current" }).click();
  await dialog.getByRole("alert").getByText("Your key may not do this.").waitFor();
  await dialog.getByRole("button", { name: "Leave it" }).click();
  await dialog.waitFor({ state: "detached" });
  const other = (await buttons.first().getAttribute("aria-label")).split(": ")[1];

  await page.getByRole("button", { name: "Forget the key" }).click();
  await show(page, "open sesame");
  await buttons.first().click();
  await dialog.getByRole("button", { name: "Make current" }).click();
  await versions.getByText(`${other} is the current version`).waitFor();
  await close();
});
