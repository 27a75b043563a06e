// Tests of API keys in a browser: DASHBOARD_URL=... node --test keys.test.mjs
// The gateway has two keys: `sesame` may read, `open sesame` may read and publish.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { card, figure, launch, requirePages, open } from "./browser.mjs";

const GATEWAY = process.env.DASHBOARD_URL;
await requirePages(GATEWAY);

let browser;
before(async () => (browser = await launch()));
after(() => browser.close());

/** Types a key into the dialog that asks for one. */
async function enterKey(page, key) {
  const dialog = page.getByRole("dialog", { name: "API key" });
  await dialog.getByLabel("Key").fill(key);
  await dialog.getByRole("button", { name: "Continue" }).click();
}

test("the page asks for a key again if it is wrong, and keeps the right one only in this tab", async () => {
  const { page, errors, close } = await open(browser, GATEWAY, "segments");
  const dialog = page.getByRole("dialog", { name: "API key" });
  await enterKey(page, "abracadabra");
  await dialog.getByText("The server does not know this key.").waitFor();
  await enterKey(page, "sesame");
  await page.getByRole("heading", { name: "Champions" }).waitFor();
  assert.deepEqual(
    await page.evaluate(() => [
      sessionStorage.getItem("key"),
      JSON.stringify(localStorage).includes("sesame"),
    ]),
    ["sesame", false],
  );
  // The gateway's metrics require the key as well.
  await page.getByRole("link", { name: "System" }).click();
  await figure(page, "Calls").waitFor();
  await page.getByRole("button", { name: "Forget the key" }).click();
  await dialog.waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.getItem("key")), null);
  assert.deepEqual(
    errors.filter((text) => !text.includes("status of 401")),
    [],
  );
  await close();
});

test("a key without permission to publish gets an error, and nothing changes", async () => {
  const { page, close } = await open(browser, GATEWAY, "models?model=segmentation");
  await enterKey(page, "sesame");
  const versions = card(page, "Versions");
  const buttons = versions.getByRole("button", { name: /^Make current: / });
  await buttons.first().click();
  const dialog = page.getByRole("dialog", { name: "Make this version current?" });
  await dialog.getByRole("button", { name: "Make current" }).click();
  await dialog.getByRole("alert").getByText("Your key may not do this.").waitFor();
  await dialog.getByRole("button", { name: "Cancel" }).click();
  await dialog.waitFor({ state: "detached" });
  const other = (await buttons.first().getAttribute("aria-label")).split(": ")[1];

  await page.getByRole("button", { name: "Forget the key" }).click();
  await enterKey(page, "open sesame");
  await buttons.first().click();
  await dialog.getByRole("button", { name: "Make current" }).click();
  await versions.getByText(`${other} is the current version`).waitFor();
  await close();
});
