// The browser and the pages, as the tests and the pictures use them.
import { existsSync } from "node:fs";
import { chromium } from "playwright-core";

const CHROMIUM = process.env.CHROMIUM ?? ["/usr/bin/chromium", "/usr/bin/google-chrome"].find(existsSync);

export const launch = () => chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });

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
  models: "models?model=churn",
  system: "system",
};

/** Waits until nothing loads and every chart is drawn. */
export async function settled(page) {
  await page.locator("h1").waitFor();
  await page.waitForFunction(
    () =>
      !document.querySelector(".state .bar") &&
      !document.querySelector('[aria-busy="true"]') &&
      ![...document.querySelectorAll(".figure strong")].some((figure) => figure.textContent === "…") &&
      ![...document.querySelectorAll("[data-drawn]")].some((chart) => chart.dataset.drawn !== "true"),
    undefined,
    { timeout: 20_000 },
  );
  // A frame or two for the canvas.
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
}
