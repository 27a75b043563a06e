// The world for ECharts: Natural Earth's outlines (world-atlas), found by the names that shops write.
import type { Geometry, Position } from "geojson";
import countries from "i18n-iso-countries";
import english from "i18n-iso-countries/langs/en.json";
import { feature } from "topojson-client";
import type { GeometryCollection, Topology } from "topojson-specification";
import worldUrl from "world-atlas/countries-110m.json?url";

countries.registerLocale(english);
// Spellings of the two published data sets that ISO's names and their aliases lack.
const ALSO: Record<string, string> = {
  EIRE: "IE",
  RSA: "ZA",
  Korea: "KR",
  "West Indies": "",
  "European Community": "",
};

/** ISO 3166-1 numeric code of a country by its name; undefined for what is no country. */
export function countryCode(name: string): string | undefined {
  const code =
    ALSO[name] ?? countries.getAlpha2Code(name, "en") ?? countries.getSimpleAlpha2Code(name, "en");
  return code ? countries.alpha2ToNumeric(code) : undefined;
}

/** A country across the date line in one piece: what is beyond it goes on eastwards. */
function whole(geometry: Geometry): Geometry {
  const ring = (points: Position[]) => {
    const crosses = points.some(
      ([x = 0], at) => at > 0 && Math.abs(x - (points[at - 1]![0] ?? 0)) > 180,
    );
    return crosses ? points.map(([x = 0, y = 0]) => [x < 0 ? x + 360 : x, y]) : points;
  };
  if (geometry.type === "Polygon")
    return { ...geometry, coordinates: geometry.coordinates.map(ring) };
  if (geometry.type === "MultiPolygon")
    return { ...geometry, coordinates: geometry.coordinates.map((part) => part.map(ring)) };
  return geometry;
}

const outlines = fetch(worldUrl);
let registered: Promise<Set<string>> | undefined;
/** Gives ECharts the map `world`, its countries named by numeric code; answers which those are. */
export function registerWorld(echarts: typeof import("./echarts")) {
  registered ??= (async () => {
    const world = (await (await outlines).json()) as Topology<{
      countries: GeometryCollection<{ name: string }>;
    }>;
    const { features } = feature(world, world.objects.countries);
    const shown = features
      .filter(({ id }) => id !== "010") // Antarctica buys nothing
      .map((f) => ({
        ...f,
        geometry: whole(f.geometry),
        properties: { ...f.properties, name: String(f.id) },
      }));
    echarts.registerMap("world", { type: "FeatureCollection", features: shown } as never);
    return new Set(shown.map(({ id }) => String(id)));
  })();
  return registered;
}
