// The dashboard in a browser, against a gateway that runs: DASHBOARD_URL=http://127.0.0.1:50050 npm test
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { launch, PAGES, settled } from "./browser.mjs";

const URL_ = process.env.DASHBOARD_URL ?? "http://127.0.0.1:50050";
const AXE = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

let browser;
before(async () => (browser = await launch()));
after(() => browser.close());

/** A page of its own that keeps what goes wrong in it. */
async function open(address, { colorScheme = "light", width = 1280, prepare } = {}) {
  const context = await browser.newContext({
    viewport: { width, height: 900 },
    colorScheme,
    locale: "en-GB",
    reducedMotion: "reduce",
    acceptDownloads: true,
  });
  const page = await context.newPage();
  const wrong = [];
  page.on("pageerror", (error) => wrong.push(String(error)));
  page.on("console", (message) => {
    // A gateway may be without its own metrics or without a service; the page says so, and so does the browser.
    const absent = message.text().includes("status of 404") && /\/metrics$|\/shopkeeper\./.test(message.location().url);
    if (message.type() === "error" && !absent) wrong.push(`${message.text()} ${message.location().url}`);
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(URL_) && !/^(blob|data):/.test(request.url())) wrong.push(`asked ${request.url()}`);
  });
  await prepare?.(page);
  await page.goto(`${URL_}/#/${address}`);
  await settled(page);
  return { page, wrong, close: () => context.close() };
}
const figure = (page, name) => page.locator(".figure", { has: page.locator("dt", { hasText: new RegExp(`^${name}$`) }) }).locator("strong");
const number = (text) => Number(text.replaceAll(/[^\d.-]/g, ""));
const offersInsights = async (page) => (await page.locator('[data-code="Unimplemented"]').count()) === 0;

for (const [name, address] of Object.entries(PAGES))
  test(`${name} renders in both themes and widths, without an error, and axe finds nothing`, async () => {
    for (const colorScheme of ["light", "dark"])
      for (const width of [1280, 390]) {
        const { page, wrong, close } = await open(address, { colorScheme, width });
        const where = `${name}, ${colorScheme}, ${width}`;
        assert.equal(await page.evaluate(() => document.documentElement.scrollWidth > innerWidth), false, `${where}: scrolls sideways`);
        assert.ok(await page.locator(".card").count(), `${where}: has no card`);
        assert.equal(await page.locator('.problem[role="alert"]').count(), 0, `${where}: shows a problem`);
        // Injected by the browser's debugger, which the page's policy does not bind.
        await page.evaluate(AXE);
        const { violations } = await page.evaluate(() =>
          globalThis.axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }),
        );
        const found = violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.html.slice(0, 160)).join(" | ")}`);
        assert.deepEqual(found, [], where);
        assert.deepEqual(wrong, [], where);
        await close();
      }
  });

test("a country changes the figures, stands in the address, and goes along to other pages", async () => {
  const { page, wrong, close } = await open("churn");
  const everywhere = number(await figure(page, "Customers").innerText());
  await page.getByRole("combobox", { name: "Country" }).selectOption("France");
  await settled(page);
  await page.waitForFunction((all) => !document.querySelector(".figure strong")?.textContent.includes(all), everywhere.toLocaleString("en-GB"));
  const france = number(await figure(page, "Customers").innerText());
  assert.ok(france > 0 && france < everywhere, `${france} of ${everywhere}`);
  assert.match(page.url(), /country=France/);
  await page.reload();
  await settled(page);
  assert.equal(number(await figure(page, "Customers").innerText()), france);
  await page.getByRole("link", { name: "Segments" }).click();
  await settled(page);
  assert.equal(await page.getByRole("combobox", { name: "Country" }).inputValue(), "France");
  await page.goBack();
  await settled(page);
  assert.equal(number(await figure(page, "Customers").innerText()), france);
  assert.deepEqual(wrong, []);
  await close();
});

test("a download has the rows that the filters leave", async () => {
  const { page, close } = await open("churn?country=Germany");
  const button = page.getByRole("button", { name: /^Download .* rows$/ }).last();
  const said = number(await button.innerText());
  const [download] = await Promise.all([page.waitForEvent("download"), button.click()]);
  assert.equal(download.suggestedFilename(), "at-risk.csv");
  const lines = (await readFile(await download.path(), "utf8")).trimEnd().split("\r\n");
  assert.equal(lines[0], "\uFEFFCustomer,Risk,Chance,Spend in the last year,Value at risk,Reasons");
  assert.equal(lines.length - 1, said);
  assert.ok(said > 1);
  const values = lines.slice(1).map((line) => Number(line.split(",")[4]));
  assert.deepEqual(values, values.toSorted((a, b) => b - a));
  await close();
});

test("the overview's filters change its figures, and its download has just those lines", async (t) => {
  const { page, wrong, close } = await open("overview");
  if (!(await offersInsights(page))) {
    await close();
    return t.skip("this gateway has no insights");
  }
  const everywhere = number(await figure(page, "Revenue").innerText());
  await page.getByRole("combobox", { name: "Country" }).selectOption("France");
  await page.waitForFunction((was) => document.querySelector(".figure strong")?.textContent !== was, everywhere.toLocaleString("en-GB"));
  await settled(page);
  const france = number(await figure(page, "Revenue").innerText());
  assert.ok(france > 0 && france < everywhere, `${france} of ${everywhere}`);
  const [download] = await Promise.all([
    page.waitForEvent("download"),
    page.getByRole("button", { name: "Download lines" }).click(),
  ]);
  const [header, ...lines] = (await readFile(await download.path(), "utf8")).trimEnd().split("\r\n");
  assert.match(header, /^line_id,invoice,.*line_total$/);
  assert.ok(lines.every((line) => line.includes(",France,")));
  const total = lines.reduce((all, line) => all + Number(line.split(",").at(-1)), 0);
  assert.ok(Math.abs(total - france) < Math.max(1, france * 1e-3), `${total} against ${france}`);
  assert.deepEqual(wrong, []);
  await close();
});

test("a basket is answered while it is typed", async () => {
  const { page, close } = await open("recommendations?by=basket");
  await page.getByLabel("Add to the basket").fill("85123A");
  await page.getByRole("button", { name: "Put 85123A in" }).click();
  await settled(page);
  assert.match(page.url(), /basket=85123A/);
  await page.getByRole("cell").first().waitFor();
  await page.getByRole("button", { name: "Take 85123A out" }).click();
  await page.getByText("Nothing yet.").waitFor();
  await close();
});

test("a service that is away shows it, the rest works, and it comes back by itself", async () => {
  let away = true;
  const { page, close } = await open("customer?id=14911", {
    prepare: (page) =>
      page.route(/shopkeeper\.churn\.v1/, (route) =>
        away
          ? route.fulfill({ status: 200, headers: { "content-type": "application/grpc-web+proto", "grpc-status": "14", "grpc-message": "away" } })
          : route.continue(),
      ),
  });
  const churn = page.locator(".card", { has: page.getByRole("heading", { name: "Churn risk" }) });
  await churn.getByRole("alert").waitFor();
  assert.match(await churn.innerText(), /not answering/);
  await page.locator(".card", { has: page.getByRole("heading", { name: "Segment" }) }).getByText("VIP programme").waitFor();
  away = false;
  await churn.getByRole("alert").waitFor({ state: "detached", timeout: 15_000 });
  await figure(page, "Chance").waitFor();
  await close();
});

test("a customer whom nobody knows is named, without an alarm", async () => {
  const { page, close } = await open("customer?id=nobody");
  assert.match(await page.locator(".cards").innerText(), /nobody/);
  assert.equal(await page.locator('[role="alert"]').count(), 0);
  await close();
});

test("a key is asked for when the gateway wants one, sent with each call, and kept in this tab alone", async () => {
  const keys = [];
  const { page, close } = await open("segments", {
    prepare: (page) =>
      page.route(/\/shopkeeper\./, async (route) => {
        const key = route.request().headers()["x-api-key"];
        keys.push(key);
        if (key === "sesame") return route.continue();
        return route.fulfill({ status: 200, headers: { "content-type": "application/grpc-web+proto", "grpc-status": "16" } });
      }),
  });
  const dialog = page.getByRole("dialog", { name: "API key" });
  await dialog.waitFor();
  await dialog.getByLabel("Key").fill("sesame");
  await dialog.getByRole("button", { name: "Continue" }).click();
  await page.getByRole("heading", { name: "Champions" }).waitFor();
  assert.ok(keys.includes("sesame"));
  assert.deepEqual(await page.evaluate(() => [sessionStorage.getItem("key"), JSON.stringify(localStorage).includes("sesame")]), ["sesame", false]);
  await page.getByRole("button", { name: "Forget the key" }).click();
  await dialog.waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.getItem("key")), null);
  await close();
});

test("all can be done with a keyboard", async () => {
  const { page, close } = await open("churn");
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement?.textContent), "Skip to the page");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement?.id), "main");
  const header = page.getByRole("columnheader", { name: "Chance" });
  await header.getByRole("button").focus();
  await page.keyboard.press("Enter");
  assert.equal(await header.getAttribute("aria-sort"), "descending");
  const chances = await page.locator('td[data-label="Chance"]').allInnerTexts();
  assert.deepEqual(chances.map(number), chances.map(number).toSorted((a, b) => b - a));
  await page.locator("summary").first().focus();
  await page.keyboard.press("Enter");
  await page.locator("details[open] table").first().waitFor();
  await close();
});

test("what was seen and done stays so", async () => {
  const { page, close } = await open("anomalies");
  const unseen = number(await figure(page, "Not seen").innerText());
  await page.getByRole("checkbox", { name: /^Seen:/ }).first().check();
  assert.equal(number(await figure(page, "Not seen").innerText()), unseen - 1);
  await page.reload();
  await settled(page);
  assert.equal(number(await figure(page, "Not seen").innerText()), unseen - 1);
  await close();
});
