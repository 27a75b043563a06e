// The forecast of the shop, a country or a product, its backtest, and the series that have a
// forecast.
import { CountryFilter, ProductFilter } from "../../components/filters";
import { Choice, NumberFilter, SelectFilter } from "../../components/inputs";
import { Page } from "../../components/layout";
import { Level } from "../../gen/shopkeeper/forecast/v1/forecast_pb";
import { Ahead } from "./ahead";
import { Backtest } from "./backtest";
import { useQuestion } from "./question";
import { SeriesList } from "./series";

export default function Forecast() {
  const { level, period } = useQuestion();
  return (
    <Page
      title="Forecast"
      lead="Expected sales of the shop, a country or a product, with a prediction interval."
      filters={
        <>
          <Choice
            name="level"
            label="Sales of"
            fallback="shop"
            options={[
              ["shop", "The shop"],
              ["country", "A country"],
              ["product", "A product"],
            ]}
          />
          {level === Level.COUNTRY && <CountryFilter all="Choose a country" />}
          {level === Level.PRODUCT && (
            <ProductFilter name="product" label="Product" placeholder="Code or description" />
          )}
          <Choice
            name="every"
            label="Per"
            fallback="day"
            options={[
              ["day", "Day"],
              ["week", "Week"],
              ["month", "Month"],
            ]}
          />
          <NumberFilter
            name="horizon"
            label="Ahead"
            fallback={period.horizon}
            min={1}
            max={period.maxHorizon}
            unit={period.unit}
          />
          <SelectFilter
            name="interval"
            label="Prediction interval"
            fallback="80"
            options={[
              ["50", "50 %: one time in two"],
              ["80", "80 %: four times in five"],
              ["95", "95 %: nineteen times in twenty"],
            ]}
          />
        </>
      }
    >
      <div class="cards">
        <Ahead />
        <Backtest />
        <SeriesList />
      </div>
    </Page>
  );
}
