// Takes a screenshot of every page: node pictures.mjs URL FOLDER [PAGE...] THEMES=light,dark and
// WIDTHS=1280,390 select variants (default: light, 1280), HEIGHT=1400 cuts off long pages.
import { mkdir } from "node:fs/promises";
import { launch, PAGES, settled } from "./browser.mjs";

const [url, folder, ...only] = process.argv.slice(2);
const themes = (process.env.THEMES ?? "light").split(",");
const widths = (process.env.WIDTHS ?? "1280").split(",").map(Number);
await mkdir(folder, { recursive: true });
const browser = await launch();
for (const colorScheme of themes)
  for (const width of widths) {
    const context = await browser.newContext({
      viewport: { width, height: width > 800 ? 800 : 844 },
      colorScheme,
      locale: "en-GB",
      reducedMotion: "reduce",
    });
    const page = await context.newPage();
    page.on(
      "console",
      (message) => message.type() === "error" && console.error(colorScheme, width, message.text()),
    );
    page.on("pageerror", (error) => console.error(colorScheme, width, error));
    for (const [name, address] of Object.entries(PAGES)) {
      if (only.length && !only.includes(name)) continue;
      await page.goto(`${url}/#/${address}`);
      await settled(page);
      const suffix = themes.length * widths.length > 1 ? `-${colorScheme}-${width}` : "";
      const { scrollHeight } = await page.evaluate(() => ({
        scrollHeight: document.documentElement.scrollHeight,
      }));
      const height = Math.min(scrollHeight, Number(process.env.HEIGHT ?? 6000));
      await page.screenshot({
        path: `${folder}/${name}${suffix}.png`,
        fullPage: true,
        clip: { x: 0, y: 0, width, height },
      });
    }
    await context.close();
  }
await browser.close();
