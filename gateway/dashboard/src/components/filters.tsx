// Filters that several pages share.
import { useQuery } from "@tanstack/preact-query";
import { useState } from "preact/hooks";
import { call, useCall } from "../data/api";
import { useCountries } from "../data/queries";
import { isoDate } from "../format";
import { ForecastService, Level } from "../gen/shopkeeper/forecast/v1/forecast_pb";
import { InsightsService } from "../gen/shopkeeper/insights/v1/insights_pb";
import { filter, setFilters } from "../url";
import { SelectFilter, TextFilter } from "./inputs";

/** Countries by name: those of the insights service, or else those that have a forecast. */
export function CountryFilter({ all = "All countries" }: { all?: string }) {
  const sales = useCountries();
  const series = useCall(ForecastService.method.listSeries, {
    level: Level.COUNTRY,
    pageSize: 1000,
  });
  const chosen = filter("country");
  const names = new Set(
    sales.data?.countries.map((c) => c.country) ?? series.data?.series.map((s) => s.key) ?? [],
  );
  if (chosen) names.add(chosen);
  return (
    <SelectFilter
      name="country"
      label="Country"
      options={[
        ["", all],
        ...[...names].toSorted((a, b) => a.localeCompare(b)).map((n): [string, string] => [n, n]),
      ]}
    />
  );
}

export function RangeFilter() {
  const { data } = useCountries();
  const limits = { min: isoDate(data?.firstTime), max: isoDate(data?.lastTime) };
  return (
    <>
      {[
        ["from", "From"],
        ["to", "Until"],
      ].map(([name, label]) => (
        <label key={name}>
          {label}
          <input
            type="date"
            {...limits}
            value={filter(name!)}
            onChange={(event) => setFilters({ [name!]: event.currentTarget.value })}
          />
        </label>
      ))}
    </>
  );
}

export function ClearFilters() {
  if (!["country", "from", "to"].some((name) => filter(name))) return null;
  return (
    <button
      type="button"
      onClick={() => setFilters({ country: undefined, from: undefined, to: undefined })}
    >
      Clear filters
    </button>
  );
}

/**
 * A product by code or description, with suggestions in a `datalist` that is updated during typing.
 */
export function ProductFilter({
  name,
  label,
  placeholder,
}: {
  name: string;
  label: string;
  placeholder?: string;
}) {
  const [text, setText] = useState("");
  const found = useQuery({
    queryKey: ["products", text],
    queryFn: async () =>
      (await call(InsightsService.method.searchProducts, { query: text, pageSize: 20 })).products,
    enabled: text.length > 1,
    placeholderData: (last) => last,
  });
  return (
    <>
      <TextFilter
        name={name}
        label={label}
        placeholder={placeholder}
        list={`${name}-products`}
        onText={setText}
      />
      <datalist id={`${name}-products`}>
        {found.data?.map((p) => (
          <option key={p.stockCode} value={p.stockCode}>
            {p.description}
          </option>
        ))}
      </datalist>
    </>
  );
}
