// Tests of the dashboard in a browser, against a running gateway:
// DASHBOARD_URL=http://127.0.0.1:50050 npm test
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import {
  card,
  figure,
  launch,
  requirePages,
  number,
  open as openAt,
  PAGES,
  settled,
  until,
} from "./browser.mjs";

const GATEWAY = process.env.DASHBOARD_URL ?? "http://127.0.0.1:50050";
const AXE = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
await requirePages(GATEWAY);

let browser;
before(async () => (browser = await launch()));
after(() => browser.close());
const open = (address, options) => openAt(browser, GATEWAY, address, options);
const offersInsights = async (page) =>
  (await page.locator('[data-code="Unimplemented"]').count()) === 0;

/** An answer of the gateway's JSON API. */
const json = async (path) => (await fetch(`${GATEWAY}${path}`)).json();
/** Clicks a download button; the column names and the rows of the file. */
async function downloaded(page, button) {
  const [download] = await Promise.all([page.waitForEvent("download"), button.click()]);
  const [heading, ...rows] = (await readFile(await download.path(), "utf8"))
    .trimEnd()
    .split("\r\n");
  return { heading: heading.replace("\uFEFF", "").split(","), rows };
}

for (const [name, address] of Object.entries(PAGES))
  test(`${name} renders in both themes and widths, without errors or findings of axe`, async () => {
    for (const colorScheme of ["light", "dark"])
      for (const width of [1280, 390]) {
        const { page, errors, close } = await open(address, { colorScheme, width });
        const variant = `${name}, ${colorScheme}, ${width}`;
        assert.equal(
          await page.evaluate(() => document.documentElement.scrollWidth > innerWidth),
          false,
          `${variant}: scrolls sideways`,
        );
        assert.ok(await page.locator(".card").count(), `${variant}: has no card`);
        assert.equal(
          await page.locator('.problem[role="alert"]').count(),
          0,
          `${variant}: shows a problem`,
        );
        // `evaluate` uses the debugger protocol, which is exempt from the page's
        // Content-Security-Policy.
        await page.evaluate(AXE);
        const { violations } = await page.evaluate(() =>
          globalThis.axe.run({
            runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
          }),
        );
        const found = violations.map(
          (v) => `${v.id}: ${v.nodes.map((n) => n.html.slice(0, 160)).join(" | ")}`,
        );
        assert.deepEqual(found, [], variant);
        assert.deepEqual(errors, [], variant);
        await close();
      }
  });

test("a country filter changes the figures, is kept in the address, and applies to other pages", async () => {
  const { page, errors, close } = await open("churn");
  const everywhere = number(await figure(page, "Customers").innerText());
  await page.getByRole("combobox", { name: "Country" }).selectOption("France");
  await settled(page);
  await page.waitForFunction(
    (all) => !document.querySelector(".figure strong")?.textContent.includes(all),
    everywhere.toLocaleString("en-GB"),
  );
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
  assert.deepEqual(errors, []);
  await close();
});

test("a download has the rows that match the filters", async () => {
  const { page, close } = await open("churn?country=Germany");
  const button = page.getByRole("button", { name: /^Download .* rows$/ }).last();
  const text = number(await button.innerText());
  const [download] = await Promise.all([page.waitForEvent("download"), button.click()]);
  assert.equal(download.suggestedFilename(), "at-risk.csv");
  const lines = (await readFile(await download.path(), "utf8")).trimEnd().split("\r\n");
  assert.equal(
    lines[0],
    "\uFEFFCustomer,Risk,Chance,Spend in the last year,Value at risk,Reasons,Lowers the risk",
  );
  assert.equal(lines.length - 1, text);
  assert.ok(text > 1);
  const values = lines.slice(1).map((line) => Number(line.split(",")[4]));
  assert.deepEqual(
    values,
    values.toSorted((a, b) => b - a),
  );
  await close();
});

test("the overview's filters change its figures, and its download has only the matching lines", async (t) => {
  const { page, errors, close } = await open("overview");
  if (!(await offersInsights(page))) {
    await close();
    return t.skip("this gateway has no insights service");
  }
  const everywhere = number(await figure(page, "Revenue").innerText());
  await page.getByRole("combobox", { name: "Country" }).selectOption("France");
  await page.waitForFunction(
    (was) => document.querySelector(".figure strong")?.textContent !== was,
    everywhere.toLocaleString("en-GB"),
  );
  await settled(page);
  const france = number(await figure(page, "Revenue").innerText());
  assert.ok(france > 0 && france < everywhere, `${france} of ${everywhere}`);
  const [download] = await Promise.all([
    page.waitForEvent("download"),
    page.getByRole("button", { name: "Download lines" }).click(),
  ]);
  const [header, ...lines] = (await readFile(await download.path(), "utf8"))
    .trimEnd()
    .split("\r\n");
  assert.match(header, /^line_id,invoice,.*line_total$/);
  assert.ok(lines.every((line) => line.includes(",France,")));
  const total = lines.reduce((all, line) => all + Number(line.split(",").at(-1)), 0);
  assert.ok(Math.abs(total - france) < Math.max(1, france * 1e-3), `${total} against ${france}`);
  assert.deepEqual(errors, []);
  await close();
});

/**
 * Expected figures for some filters, from SQL over the curated table: revenue, orders, customers,
 * items, lines, products, months.
 */
const EXPECTED = JSON.parse(process.env.DASHBOARD_FIGURES ?? "[]");

test(
  "figures, tables and downloads equal those of a direct query",
  { skip: EXPECTED.length === 0 && "DASHBOARD_FIGURES is not set" },
  async () => {
    for (const { filters, ...expected } of EXPECTED) {
      const { page, errors, close } = await open(`overview?every=month&${filters}`);
      const shown = async (name) => number(await figure(page, name).innerText());
      for (const [name, value] of [
        ["Revenue", expected.revenue],
        ["Orders", expected.orders],
        ["Known customers", expected.customers],
        ["Units sold", expected.items],
      ]) {
        // From 100 on amounts are shown without decimals.
        const tolerance = Math.abs(value) >= 99 ? 0.5001 : 0.005001;
        assert.ok(
          Math.abs((await shown(name)) - value) <= tolerance,
          `${filters}: ${name} is ${await shown(name)} rather than ${value}`,
        );
      }
      const products = card(page, "Products");
      const codes = await products.locator('td[data-label="Product"]').allInnerTexts();
      assert.deepEqual(
        codes.slice(0, expected.products.length),
        expected.products.map((p) => p.stock_code),
        filters,
      );
      const revenues = (await products.locator('td[data-label="Revenue"]').allInnerTexts()).map(
        number,
      );
      expected.products.forEach((p, at) =>
        assert.ok(Math.abs(revenues[at] - p.revenue) <= 0.5001, `${filters}: ${p.stock_code}`),
      );

      const trend = card(page, "Revenue over time");
      await trend.locator("summary").click();
      const [months] = await Promise.all([
        page.waitForEvent("download"),
        trend.getByRole("button", { name: /^Download/ }).click(),
      ]);
      const rows = (await readFile(await months.path(), "utf8"))
        .trimEnd()
        .split("\r\n")
        .slice(1)
        .map((line) => line.split(","));
      assert.deepEqual(
        rows.map(([month]) => month.slice(0, 7)),
        expected.months.map((m) => m.month),
        filters,
      );
      rows.forEach(([, revenue], at) =>
        assert.ok(
          Math.abs(Number(revenue) - expected.months[at].revenue) < 0.005,
          `${filters}: ${expected.months[at].month}`,
        ),
      );

      const [download] = await Promise.all([
        page.waitForEvent("download"),
        page.getByRole("button", { name: "Download lines" }).click(),
      ]);
      const [, ...lines] = (await readFile(await download.path(), "utf8")).trimEnd().split("\r\n");
      assert.equal(lines.length, expected.lines, filters);
      const total = lines.reduce((all, line) => all + Number(line.split(",").at(-1)), 0);
      assert.ok(
        Math.abs(total - expected.revenue) < 0.01,
        `${filters}: ${total} rather than ${expected.revenue}`,
      );
      assert.deepEqual(errors, []);
      await close();
    }
  },
);

test("lines can be downloaded as Parquet", async (t) => {
  const { page, close } = await open("overview?country=France&format=parquet");
  if (!(await offersInsights(page))) {
    await close();
    return t.skip("this gateway has no insights service");
  }
  const [download] = await Promise.all([
    page.waitForEvent("download"),
    page.getByRole("button", { name: "Download lines" }).click(),
  ]);
  assert.equal(download.suggestedFilename(), "transactions.parquet");
  const bytes = await readFile(await download.path());
  assert.deepEqual([bytes.subarray(0, 4), bytes.subarray(-4)].map(String), ["PAR1", "PAR1"]);
  await close();
});

test("a basket is answered during typing", async () => {
  const { page, close } = await open("recommendations?by=basket");
  await page.getByLabel("Add to the basket").fill("85123A");
  await page.getByRole("button", { name: "Add 85123A" }).click();
  await settled(page);
  assert.match(page.url(), /basket=85123A/);
  await page.getByRole("cell").first().waitFor();
  await page.getByRole("button", { name: "Remove 85123A" }).click();
  await page.getByText("The basket is empty.").waitFor();
  await close();
});

test("an unknown customer is named without an alert", async () => {
  const { page, close } = await open("customer?id=nobody");
  assert.match(await page.locator(".cards").innerText(), /nobody/);
  assert.equal(await page.locator('[role="alert"]').count(), 0);
  await close();
});

test("the page can be used by keyboard", async () => {
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
  assert.deepEqual(
    chances.map(number),
    chances.map(number).toSorted((a, b) => b - a),
  );
  await page.locator("summary").first().focus();
  await page.keyboard.press("Enter");
  await page.locator("details[open] table").first().waitFor();
  await close();
});

test("what is marked as seen stays marked after a reload", async () => {
  const { page, close } = await open("anomalies");
  const unseen = number(await figure(page, "Not seen").innerText());
  await page
    .getByRole("checkbox", { name: /^Seen:/ })
    .first()
    .check();
  assert.equal(number(await figure(page, "Not seen").innerText()), unseen - 1);
  await page.reload();
  await settled(page);
  assert.equal(number(await figure(page, "Not seen").innerText()), unseen - 1);
  await close();
});

test("movements between segments add up to the figures of each direction", async (t) => {
  const { page, close } = await open("segments");
  const movement = card(page, "Movement between segments");
  if (await movement.getByText("This is the first model version").count()) {
    await close();
    return t.skip("this store has one version of the segmentation model");
  }
  const shown = async (name) => number(await figure(page, name).innerText());
  await movement.locator("summary").click();
  const [download] = await Promise.all([
    page.waitForEvent("download"),
    movement.getByRole("button", { name: /^Download/ }).click(),
  ]);
  const rows = (await readFile(await download.path(), "utf8"))
    .trimEnd()
    .split("\r\n")
    .slice(1)
    .map((line) => line.split(","));
  for (const [name, direction] of [
    ["Moved up", "up"],
    ["Moved down", "down"],
    ["Stayed", "stayed"],
    ["New", "new"],
    ["Gone", "gone"],
  ]) {
    const sum = rows
      .filter((row) => row[2] === direction)
      .reduce((all, row) => all + Number(row[3]), 0);
    assert.equal(await shown(name), sum, name);
  }
  // Customers with a current segment are those that the shares count.
  const shares = card(page, "Shares");
  await shares.locator("summary").click();
  await shares.getByRole("cell").first().waitFor();
  const sizes = (await shares.locator('td[data-label="Customers"]').allInnerTexts()).map(number);
  const now = rows.filter((row) => row[2] !== "gone").reduce((all, row) => all + Number(row[3]), 0);
  assert.equal(
    now,
    sizes.reduce((all, size) => all + size, 0),
  );
  await close();
});

test("a forecast is compared with the same number of days before it, measured as the model measures them", async (t) => {
  const { page, errors, close } = await open("forecast");
  if (!(await offersInsights(page))) {
    await close();
    return t.skip("this gateway has no insights service");
  }
  const shown = async (name) => number(await figure(page, name).innerText());
  const near = (a, b, what) => assert.ok(Math.abs(a - b) <= 1, `${what}: ${a} rather than ${b}`);
  const { series } = await json("/v1/series");
  near(await shown("Sold in the 28 days before"), series[0].recentTotal, "28 days");
  const note = page
    .locator(".figure", { has: page.locator("dt", { hasText: "Expected in 28 days" }) })
    .locator("dd span");
  const change = (await shown("Expected in 28 days")) / series[0].recentTotal - 1;
  assert.ok(
    Math.abs(Number.parseFloat(await note.innerText()) - 100 * change) < 0.06,
    await note.innerText(),
  );

  // Weeks begin on Mondays, but a forecast may begin on any day.
  await page.getByRole("button", { name: "Week" }).click();
  await settled(page);
  const { points } = await json("/v1/sales:forecast?frequency=FREQUENCY_WEEKLY");
  const [start, last] = [points[0], points.at(-1)].map(
    (p) => Date.parse(p.periodStart) / 86_400_000,
  );
  const span = last + 7 - start;
  const { points: days } = await json("/v1/sales:backtest?frequency=FREQUENCY_DAILY");
  near(
    await shown(`Sold in the ${span} days before`),
    days.slice(-span).reduce((all, d) => all + d.actual, 0),
    "weeks",
  );
  near(
    await shown(`Expected in ${span} days`),
    points.reduce((all, p) => all + p.mean, 0),
    "weeks ahead",
  );
  const monday = (at) => (at + 3) % 7 === 0;
  const whole = points.slice(monday(start) ? 0 : 1);
  near(
    await shown("Average per week"),
    whole.reduce((all, p) => all + p.mean, 0) / whole.length,
    "whole weeks",
  );
  await page.locator("summary").first().click();
  const { heading, rows } = await downloaded(
    page,
    page.getByRole("button", { name: /^Download/ }).first(),
  );
  const [from, length, actual, expected] = ["Period from", "Days", "Actual", "Expected"].map(
    (name) => heading.indexOf(name),
  );
  const cells = rows.map((row) => row.split(","));
  const ahead = cells.filter((row) => row[expected]);
  assert.deepEqual(
    ahead.map((row) => row[from]),
    points.map((p) => p.periodStart.slice(0, 10)),
  );
  assert.deepEqual(
    ahead.map((row) => Number(row[length])),
    points.map((_, at) => (at === 0 && !monday(start) ? 7 - ((start + 3) % 7) : 7)),
  );
  const sold = cells.filter((row) => row[actual]);
  assert.ok(
    sold.slice(1, -1).every((row) => row[length] === "7"),
    "a part of a week among the whole ones",
  );
  assert.equal(Number(sold.at(-1)[length]), monday(start) ? 7 : (start + 3) % 7);
  assert.deepEqual(errors, []);
  await close();
});

test("the median is shown beside the mean, with a notice if the mean is outside of the interval", async () => {
  const { page, close } = await open("forecast?level=country&country=France&every=month");
  const { points } = await json(
    "/v1/sales:forecast?level=LEVEL_COUNTRY&key=France&frequency=FREQUENCY_MONTHLY",
  );
  await page.locator("summary").first().click();
  const { heading, rows } = await downloaded(
    page,
    page.getByRole("button", { name: /^Download/ }).first(),
  );
  const at = heading.indexOf("Median");
  const medians = rows
    .map((row) => row.split(",")[at])
    .filter(Boolean)
    .map(Number);
  assert.deepEqual(
    medians,
    points.map((p) => p.quantiles[1].value),
  );
  const outside = points.some(
    ({ mean, quantiles: [low, , high] }) => mean < low.value || mean > high.value,
  );
  assert.equal(await page.getByText("outside of the interval").count(), Number(outside));
  await close();
});

test("an unknown product is not labelled as the shop", async () => {
  const { page, close } = await open("forecast?level=product&product=nope");
  await card(page, "nope").getByRole("note").waitFor();
  assert.equal(await page.getByRole("heading", { name: /The shop/ }).count(), 0);
  await close();
});

test("anomalies are downloaded with time and line id", async () => {
  const { page, close } = await open("anomalies?severity=HIGH");
  const { anomalies } = await json("/v1/anomalies?pageSize=1000&minSeverity=SEVERITY_HIGH");
  const { heading, rows } = await downloaded(
    page,
    card(page, "Lines").getByRole("button", { name: /^Download/ }),
  );
  const [when, line] = ["When", "Line id"].map((name) => heading.indexOf(name));
  assert.deepEqual(
    // The columns before the reason contain no comma.
    rows.map((row) => row.split(",")).map((row) => [row[when], row[line]]),
    anomalies.map(({ transaction: t }) => [t.invoiceTime.slice(0, 19).replace("T", " "), t.lineId]),
  );
  await close();
});

test("the reasons of a churn risk are those that raise it", async () => {
  const { page, close } = await open("churn?country=Germany");
  const { churnRisks } = await json(
    "/v1/atRiskCustomers?country=Germany&pageSize=1000&minRiskLevel=RISK_LEVEL_MEDIUM",
  );
  const { heading, rows } = await downloaded(
    page,
    page.getByRole("button", { name: /^Download .* rows$/ }).last(),
  );
  assert.deepEqual(heading.slice(-2), ["Reasons", "Lowers the risk"]);
  const cell = (those) => {
    const text = those.map((reason) => reason.text).join("; ");
    const written = text.charAt(0).toUpperCase() + text.slice(1);
    return written.includes(",") ? `"${written}"` : written;
  };
  assert.ok(
    churnRisks.some(({ reasons }) => reasons.some((r) => r.contribution < 0)),
    "no reason lowers a risk",
  );
  for (const { customerId, reasons } of churnRisks) {
    const [raise, lower] = [
      reasons.filter((r) => r.contribution > 0),
      reasons.filter((r) => r.contribution < 0),
    ].map(cell);
    const row = rows.find((other) => other.startsWith(`${customerId},`));
    assert.ok(row.endsWith(`,${raise},${lower}`), `${row} against ${raise} and ${lower}`);
  }
  await close();
});

test("stock actions count units that were not returned, and ordering less has no expected value", async (t) => {
  const { page, errors, close } = await open("actions?kind=orderLess");
  const { model } = await json("/v1/series");
  const end = `${model.asOf.slice(0, 10)}T00:00:00Z`;
  const start = new Date(Date.parse(end) - 28 * 86_400_000).toISOString();
  const { products } = await json(
    `/v1/insights/topProducts?order=PRODUCT_ORDER_QUANTITY&pageSize=1000&startTime=${start}&endTime=${end}`,
  );
  if (!products) {
    await close();
    return t.skip("this gateway has no insights service");
  }
  const kept = new Map(products.map((p) => [p.stockCode, p.items - p.returnedItems]));
  let lines = 0;
  for (const kind of ["Order less", "Stock"]) {
    await page.getByRole("button", { name: kind, exact: true }).click();
    await settled(page);
    for (const row of await page.locator("tbody tr").all()) {
      const code = await row.locator('td[data-label="For"]').innerText();
      const [, pieces] = /the ([\d,]+) units sold and not returned/.exec(
        await row.locator('td[data-label="Why"]').innerText(),
      );
      assert.equal(number(pieces), kept.get(code), code);
      if (kind === "Order less")
        assert.match(await row.locator('td[data-label="Expected value"]').innerText(), /^–/);
      lines++;
    }
  }
  assert.ok(lines > 0);
  assert.equal(await figure(page, "Order less").innerText(), "–");
  assert.deepEqual(errors, []);
  await close();
});

test("segments of different recipes have no order, and a refused comparison gives its reason", async (t) => {
  const { versions } = await json("/v1/models/segmentation/versions");
  const now = versions.find((v) => v.current);
  const then = versions.find((v) => !v.current && v.recipe === now.recipe);
  if (!then) return t.skip("this store has one version of the segmentation model");
  const address = `segments?since=${then.version}`;
  const same = await open(address);
  const shown = await card(same.page, "Movement between segments").innerText();
  for (const { version, recipe } of [then, now])
    assert.ok(shown.includes(`${version} (recipe ${recipe}, as of `), shown);
  assert.match(shown, /Moved up/);
  await same.close();

  const other = await open(address, {
    prepare: (page) =>
      page.route("**/ListModelVersions", async (route) => {
        const answer = await route.fetch();
        const text = (await answer.body()).toString("latin1");
        // A recipe of the same length, because the encoded message contains lengths.
        const at = text.indexOf(now.recipe, text.indexOf(then.version));
        const changed =
          text.slice(0, at) + now.recipe.replace(/./, "X") + text.slice(at + now.recipe.length);
        await route.fulfill({ response: answer, body: Buffer.from(changed, "latin1") });
      }),
  });
  const movement = card(other.page, "Movement between segments");
  assert.match(await movement.innerText(), /The recipes differ/);
  assert.equal(
    (await movement.getByText("Moved up").count()) +
      (await movement.getByText("Moved down").count()),
    0,
  );
  await figure(other.page, "In both").waitFor();
  assert.deepEqual(other.errors, []);
  await other.close();

  const refused = await open(address, {
    prepare: (page) =>
      page.route("**/ListSegmentMovements", (route) =>
        route.fulfill({
          headers: {
            "content-type": "application/grpc-web+proto",
            "grpc-status": "9",
            "grpc-message": "of another recipe",
          },
        }),
      ),
  });
  await card(refused.page, "Movement between segments").getByText("of another recipe").waitFor();
  assert.equal(await refused.page.getByRole("alert").count(), 0);
  await refused.close();
});

test("the quality of segments is measured by the aim of their recipe", async (t) => {
  const { status } = await json("/v1/models/segmentation/status");
  const explained = status.details.metrics.find((m) => m.name === "spend_explained");
  if (status.details.recipe !== "default" || !explained)
    return t.skip("the segments are clusters, or were not evaluated");
  const { page, close } = await open("segments");
  const text = await card(page, "Shares").innerText();
  assert.ok(text.includes(`explains ${Math.round(100 * explained.value)}% of the variance`), text);
  assert.doesNotMatch(text, /silhouette/);
  await close();
});

test("drift shows the gauges of the gateway in descending order", async () => {
  const gauges = [
    ["recency_days", 0.31],
    ["probability", 0.02],
    ["orders", 0.14],
  ].map(
    ([name, index]) =>
      `shopkeeper_model_drift{model="churn",number="${name}",otel_scope_name="shopkeeper"} ${index}\n`,
  );
  const { page, errors, close } = await open("models?model=churn", {
    // Injected, because the gateway sets a gauge only after a thousand calls.
    prepare: (opened) =>
      opened.route("**/metrics", async (route) => {
        const answer = await route.fetch();
        await route.fulfill({ response: answer, body: (await answer.text()) + gauges.join("") });
      }),
  });
  const rows = await card(page, "Drift").locator("tbody tr").allInnerTexts();
  assert.deepEqual(
    rows.map((row) => row.split(/\s*[\t\n]\s*/).slice(0, 3)),
    [
      ["recency days", "0.310", "Significant drift"],
      ["orders", "0.140", "Moderate drift"],
      ["probability", "0.020", "Stable"],
    ],
  );
  assert.deepEqual(errors, []);
  await close();
});

test("another version can be made current, and then the previous one again", async (t) => {
  const { page, errors, close } = await open("models?model=segmentation");
  const versions = card(page, "Versions");
  const badge = page.locator(".badge", { hasText: /^Current$/ });
  const current = () =>
    versions
      .locator("tr", { has: badge })
      .locator("td")
      .first()
      .innerText()
      .then((text) => text.split(" ")[0]);
  if ((await versions.getByRole("button", { name: /^Make current: / }).count()) === 0) {
    await close();
    return t.skip("this gateway does not allow publishing, or has only one version");
  }
  const was = await current();
  const [, other] = /^Make current: (.*)$/.exec(
    await versions
      .getByRole("button", { name: /^Make current: / })
      .first()
      .getAttribute("aria-label"),
  );
  const dialog = page.getByRole("dialog", { name: "Make this version current?" });
  const publish = async (version) => {
    await versions.getByRole("button", { name: `Make current: ${version}` }).click();
    await dialog.getByRole("button", { name: "Make current" }).click();
    await versions.getByText(`${version} is the current version`).waitFor();
    await until(`${version} is marked as current`, async () => (await current()) === version);
    await until(
      `${version} is served`,
      async () => (await card(page, "Now").locator("dd").first().innerText()) === version,
    );
  };
  // Escape closes the dialog without a change.
  await versions.getByRole("button", { name: `Make current: ${other}` }).click();
  await dialog.waitFor();
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
  assert.equal(await current(), was);
  await publish(other);
  await publish(was);
  assert.deepEqual(errors, []);
  await close();
});
