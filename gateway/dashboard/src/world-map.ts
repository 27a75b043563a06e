// The world map for ECharts: Natural Earth's outlines (world-atlas), looked up by country names as
// shops write them.
import type { Geometry, Position } from "geojson";
import countries from "i18n-iso-countries";
import english from "i18n-iso-countries/langs/en.json";
import { feature } from "topojson-client";
import type { GeometryCollection, Topology } from "topojson-specification";
import worldUrl from "world-atlas/countries-110m.json?url";

countries.registerLocale(english);

// Names in the two published data sets that are neither ISO names nor known aliases; empty for what
// is not a country.
const MORE_NAMES: Record<string, string> = {
  EIRE: "IE",
  RSA: "ZA",
  Korea: "KR",
  "West Indies": "",
  "European Community": "",
};

/** ISO 3166-1 numeric code of a country by its name; undefined for what is not a country. */
export function countryCode(name: string): string | undefined {
  const code =
    MORE_NAMES[name] ??
    countries.getAlpha2Code(name, "en") ??
    countries.getSimpleAlpha2Code(name, "en");
  return code ? countries.alpha2ToNumeric(code) : undefined;
}

/**
 * Joins a country that crosses the date line: longitudes beyond it continue eastwards, above 180
 * degrees.
 */
function joinAtDateLine(geometry: Geometry): Geometry {
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

/** Registers the map `world`, its countries named by numeric code, once; returns these codes. */
export function registerWorld(echarts: typeof import("./components/echarts")) {
  registered ??= (async () => {
    const world = (await (await outlines).json()) as Topology<{
      countries: GeometryCollection<{ name: string }>;
    }>;
    const { features } = feature(world, world.objects.countries);
    const shown = features
      .filter(({ id }) => id !== "010") // Antarctica buys nothing
      .map((f) => ({
        ...f,
        geometry: joinAtDateLine(f.geometry),
        properties: { ...f.properties, name: String(f.id) },
      }));
    echarts.registerMap("world", { type: "FeatureCollection", features: shown } as never);
    return new Set(shown.map(({ id }) => String(id)));
  })();
  return registered;
}
