// Prints the milliseconds until the last answer of the overview has arrived, for five loads: node
// speed.mjs URL The target is one second.
import { launch, settled } from "./browser.mjs";

const [url] = process.argv.slice(2);
const browser = await launch();
for (let run = 0; run < 5; run++) {
  const context = await browser.newContext({
    viewport: { width: 1280, height: 900 },
    reducedMotion: "reduce",
  });
  const page = await context.newPage();
  await page.goto(`${url}/#/overview`);
  await settled(page);
  const ends = () =>
    Math.max(...performance.getEntriesByType("resource").map((entry) => entry.responseEnd));
  console.log(Math.round(await page.evaluate(ends)));
  await context.close();
}
await browser.close();
