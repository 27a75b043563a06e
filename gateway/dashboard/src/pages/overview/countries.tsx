// Revenue by country, as a map and as bars.
import { useCallback, useState } from "preact/hooks";
import { axis, Chart, tooltip } from "../../components/chart";
import { Card } from "../../components/layout";
import { Answer } from "../../components/states";
import type { Column } from "../../components/table";
import { useCall } from "../../data/api";
import { useRange } from "../../data/queries";
import { count, money, percent, shortMoney } from "../../format";
import { type CountrySales, InsightsService } from "../../gen/shopkeeper/insights/v1/insights_pb";
import { filter, setFilters } from "../../url";
import { countryCode, registerWorld } from "../../world-map";

const COUNTRY_COLUMNS: Column<CountrySales>[] = [
  { header: "Country", value: (c) => c.country },
  { header: "Revenue", value: (c) => c.sales?.revenue, format: money },
  { header: "Share", value: (c) => c.revenueShare, format: percent },
  { header: "Orders", value: (c) => Number(c.sales?.orders), format: count },
  { header: "Customers", value: (c) => Number(c.sales?.customers), format: count },
  { header: "Returned", value: (c) => c.sales?.returnsRate, format: percent },
];

export function Countries() {
  const sales = useCall(InsightsService.method.listSalesByCountry, {
    ...useRange(),
    pageSize: 1000,
  });
  // Codes of the countries on the map, known once it has been registered.
  const [mapCodes, setMapCodes] = useState<ReadonlySet<string>>(new Set());
  const prepare = useCallback(
    async (echarts: typeof import("../../components/echarts")) =>
      setMapCodes(await registerWorld(echarts)),
    [],
  );
  const choose = (country: string) =>
    setFilters({ country: filter("country") === country ? undefined : country });
  return (
    <>
      <Card
        title="Countries on the map"
        note="Revenue, on a logarithmic scale. Click a country to filter by it."
        span={7}
      >
        <Answer query={sales} isEmpty={(a) => a.countries.length === 0}>
          {({ countries }) => {
            const placed = countries
              .map((c) => ({
                code: countryCode(c.country),
                country: c.country,
                revenue: c.sales?.revenue ?? 0,
              }))
              .filter((c) => c.revenue > 0);
            const unmapped = mapCodes.size
              ? placed.filter((c) => !c.code || !mapCodes.has(c.code))
              : [];
            const maxRevenue = Math.max(10, ...placed.map((c) => c.revenue));
            return (
              <>
                <Chart
                  label="Revenue of each country on a map of the world"
                  rows={countries}
                  columns={COUNTRY_COLUMNS}
                  download="countries"
                  prepare={prepare}
                  onChoose={(code) => {
                    const hit = placed.find((c) => c.code === code);
                    if (hit) choose(hit.country);
                  }}
                  option={(colors) => ({
                    tooltip: tooltip(colors, {
                      formatter: ({ name }: { name: string }) => {
                        const hit = placed.find((c) => c.code === name);
                        return hit ? `${hit.country}: ${money(hit.revenue)}` : "";
                      },
                    }),
                    visualMap: {
                      type: "continuous",
                      min: 2,
                      max: Math.log10(maxRevenue),
                      calculable: false,
                      orient: "horizontal",
                      left: 0,
                      bottom: 0,
                      itemHeight: 90,
                      itemWidth: 10,
                      text: [shortMoney(maxRevenue), shortMoney(100)],
                      textStyle: { color: colors.muted },
                      inRange: { color: [colors.line, colors.accent] },
                    },
                    series: [
                      {
                        type: "map",
                        map: "world",
                        roam: false,
                        selectedMode: false,
                        showLegendSymbol: false,
                        top: 0,
                        bottom: 24,
                        left: 0,
                        right: 0,
                        itemStyle: {
                          areaColor: "transparent",
                          borderColor: colors.muted,
                          borderWidth: 0.4,
                        },
                        emphasis: {
                          label: { show: false },
                          itemStyle: { areaColor: colors.series[1] },
                        },
                        data: placed.map((c) => ({
                          name: c.code ?? "",
                          value: Math.log10(Math.max(100, c.revenue)),
                        })),
                      },
                    ],
                  })}
                />
                {unmapped.length > 0 && (
                  <p class="quiet">Not on this map: {unmapped.map((c) => c.country).join(", ")}.</p>
                )}
              </>
            );
          }}
        </Answer>
      </Card>
      <Card title="Countries by revenue" note="On a logarithmic scale" span={5}>
        <Answer query={sales} isEmpty={(a) => a.countries.length === 0}>
          {({ countries }) => {
            const top = countries.filter((c) => (c.sales?.revenue ?? 0) > 0).slice(0, 12);
            return (
              <Chart
                label="The countries with most revenue"
                rows={countries}
                columns={COUNTRY_COLUMNS}
                download="countries"
                onChoose={choose}
                option={(colors) => ({
                  tooltip: tooltip(colors, { valueFormatter: (v: unknown) => money(Number(v)) }),
                  grid: {
                    left: 8,
                    right: 64,
                    top: 4,
                    bottom: 4,
                    outerBoundsMode: "same",
                    outerBoundsContain: "axisLabel",
                  },
                  xAxis: { type: "log", logBase: 10, show: false, min: 1 },
                  yAxis: {
                    type: "category",
                    inverse: true,
                    data: top.map((c) => c.country),
                    ...axis(colors),
                    axisLabel: { color: colors.text },
                  },
                  series: [
                    {
                      type: "bar",
                      data: top.map((c) => c.sales?.revenue ?? 0),
                      itemStyle: { borderRadius: [0, 3, 3, 0] },
                      label: {
                        show: true,
                        position: "right",
                        color: colors.muted,
                        formatter: ({ value }) => shortMoney(Number(value)),
                      },
                    },
                  ],
                })}
              />
            );
          }}
        </Answer>
      </Card>
    </>
  );
}
