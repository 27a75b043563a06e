// The browser and the pages, as the tests and the pictures use them.
import { existsSync } from "node:fs";
import { chromium } from "playwright-core";

const CHROMIUM =
  process.env.CHROMIUM ?? ["/usr/bin/chromium", "/usr/bin/google-chrome"].find(existsSync);

export const launch = () => chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });

/** Longest that anything is waited for: a machine may be slow, and have much else to do. */
export const PATIENCE = 120_000;

/** Says what is wrong where a gateway has no pages, rather than leave each test to find it out. */
export async function needsPages(url) {
  const page = await fetch(url).catch((error) => {
    throw new Error(`nothing answers at ${url}: start a gateway, and name it in DASHBOARD_URL`, {
      cause: error,
    });
  });
  if (!(await page.text()).includes('id="app"'))
    throw new Error(
      `the gateway at ${url} has no dashboard in it: run \`make dashboard\`, then build the gateway again`,
    );
}

/** A page of its own that keeps what goes wrong in it. */
export async function open(
  browser,
  url,
  address,
  { colorScheme = "light", width = 1280, prepare } = {},
) {
  const context = await browser.newContext({
    viewport: { width, height: 900 },
    colorScheme,
    locale: "en-GB",
    reducedMotion: "reduce",
    acceptDownloads: true,
  });
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  const wrong = [];
  page.on("pageerror", (error) => wrong.push(String(error)));
  page.on("console", (message) => {
    // A gateway may be without its own metrics or without a service; the page says so, and so does the browser.
    const absent =
      message.text().includes("status of 404") &&
      /\/metrics$|\/shopkeeper\./.test(message.location().url);
    if (message.type() === "error" && !absent)
      wrong.push(`${message.text()} ${message.location().url}`);
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(url) && !/^(blob|data):/.test(request.url()))
      wrong.push(`asked ${request.url()}`);
  });
  await prepare?.(page);
  await page.goto(`${url}/#/${address}`);
  await settled(page);
  return { page, wrong, close: () => context.close() };
}

export const card = (page, title) =>
  page.locator(".card", { has: page.getByRole("heading", { name: title, exact: true }) });
export const figure = (page, name) =>
  page
    .locator(".figure", { has: page.locator("dt", { hasText: new RegExp(`^${name}$`) }) })
    .locator("strong");
/** A number as en-GB writes it. */
export const number = (text) => Number(text.replaceAll(/[^\d.-]/g, ""));

/** Asks until it holds. */
export async function until(what, holds) {
  const end = Date.now() + PATIENCE;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`not within ${PATIENCE} ms: ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

/** Every page, with filters that give it something to show. */
export const PAGES = {
  overview: "overview",
  actions: "actions",
  segments: "segments",
  forecast: "forecast",
  "forecast-product": "forecast?level=product&product=85123A&every=week",
  recommendations: "recommendations?customer=14911",
  "recommendations-basket": "recommendations?by=basket&basket=85123A,22423",
  "recommendations-product": "recommendations?by=product&product=22423",
  churn: "churn",
  anomalies: "anomalies",
  customer: "customer?id=14911",
  models: "models?model=segmentation",
  system: "system",
};

/** Waits until nothing loads, nothing that took too long is asked again, and every chart is drawn. */
export async function settled(page) {
  await page.locator("h1").waitFor();
  await page.waitForFunction(
    () =>
      !document.querySelector('.state .bar, .problem[data-code="DeadlineExceeded"]') &&
      !document.querySelector('[aria-busy="true"]') &&
      ![...document.querySelectorAll(".figure strong")].some(
        (value) => value.textContent === "…",
      ) &&
      ![...document.querySelectorAll("[data-drawn]")].some(
        (chart) => chart.dataset.drawn !== "true",
      ),
    undefined,
    { timeout: PATIENCE },
  );
  // A frame or two for the canvas.
  await page.evaluate(
    () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))),
  );
}
