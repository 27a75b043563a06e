// What the browser tests, `pictures.mjs` and `speed.mjs` share: the browser, the pages, and waiting
// for them.
import { existsSync } from "node:fs";
import { chromium } from "playwright-core";

const CHROMIUM =
  process.env.CHROMIUM ?? ["/usr/bin/chromium", "/usr/bin/google-chrome"].find(existsSync);

export const launch = () => chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });

/** Timeout of every wait, in milliseconds. Generous, because the machine may be slow or busy. */
export const TIMEOUT_MS = 120_000;

/** Fails with a hint if no gateway answers, or if it was built without the dashboard. */
export async function requirePages(url) {
  const page = await fetch(url).catch((error) => {
    throw new Error(
      `nothing answers at ${url}: start a gateway and set DASHBOARD_URL to its address`,
      {
        cause: error,
      },
    );
  });
  if (!(await page.text()).includes('id="app"'))
    throw new Error(
      `the gateway at ${url} has no dashboard in it: run \`make dashboard\`, then build the gateway again`,
    );
}

/**
 * Opens a page in a new browser context. `errors` collects exceptions, console errors and requests
 * to other hosts.
 */
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
  context.setDefaultTimeout(TIMEOUT_MS);
  const page = await context.newPage();
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => {
    // A gateway may lack metrics or a service. The page handles the 404, but the browser logs it as
    // well.
    const expected404 =
      message.text().includes("status of 404") &&
      /\/metrics$|\/shopkeeper\./.test(message.location().url);
    if (message.type() === "error" && !expected404)
      errors.push(`${message.text()} ${message.location().url}`);
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(url) && !/^(blob|data):/.test(request.url()))
      errors.push(`requested ${request.url()}`);
  });
  await prepare?.(page);
  await page.goto(`${url}/#/${address}`);
  await settled(page);
  return { page, errors, close: () => context.close() };
}

export const card = (page, title) =>
  page.locator(".card", { has: page.getByRole("heading", { name: title, exact: true }) });
export const figure = (page, name) =>
  page
    .locator(".figure", { has: page.locator("dt", { hasText: new RegExp(`^${name}$`) }) })
    .locator("strong");
/** Parses a number in the format of en-GB. */
export const number = (text) => Number(text.replaceAll(/[^\d.-]/g, ""));

/** Polls a condition until it holds. */
export async function until(what, holds) {
  const end = Date.now() + TIMEOUT_MS;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`timed out after ${TIMEOUT_MS} ms: ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

/** The address of every page, with filters for which it has data. */
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

/** Waits until no card is loading or about to retry after a timeout, and every chart is drawn. */
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
    { timeout: TIMEOUT_MS },
  );
  // Two frames, so that the canvas is painted.
  await page.evaluate(
    () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))),
  );
}
