// Form fields that read and write filters in the address. `fallback` is the value of a filter that
// is not set.
import { useEffect, useState } from "preact/hooks";
import { filter, setFilters } from "../url";

export function SelectFilter(props: {
  name: string;
  label: string;
  options: [value: string, label: string][];
  fallback?: string;
}) {
  return (
    <label>
      {props.label}
      <select
        value={filter(props.name, props.fallback)}
        onChange={(event) =>
          setFilters({
            [props.name]:
              event.currentTarget.value === props.fallback ? undefined : event.currentTarget.value,
          })
        }
      >
        {props.options.map(([value, label]) => (
          <option key={value} value={value}>
            {label}
          </option>
        ))}
      </select>
    </label>
  );
}

export function NumberFilter(props: {
  name: string;
  label: string;
  fallback: number;
  min: number;
  max: number;
  step?: number;
  unit?: string;
}) {
  return (
    <label>
      {props.label}
      <span class="with-unit">
        <input
          type="number"
          inputMode="decimal"
          min={props.min}
          max={props.max}
          step={props.step ?? 1}
          value={filter(props.name, String(props.fallback))}
          onChange={(event) => setFilters({ [props.name]: event.currentTarget.value })}
        />
        {props.unit}
      </span>
    </label>
  );
}

/** Text that is applied as a filter after a pause of half a second, or when Enter is pressed. */
export function TextFilter(props: {
  name: string;
  label: string;
  placeholder?: string;
  list?: string;
  onText?: (text: string) => void;
}) {
  const { name } = props;
  const applied = filter(name);
  const [text, setText] = useState(applied);
  useEffect(() => setText(applied), [applied]);
  useEffect(() => {
    if (text === applied) return;
    const pause = setTimeout(() => setFilters({ [name]: text.trim() }, true), 500);
    return () => clearTimeout(pause);
  }, [name, applied, text]);
  return (
    <label>
      {props.label}
      <input
        type="search"
        autoComplete="off"
        spellcheck={false}
        placeholder={props.placeholder}
        list={props.list}
        value={text}
        onInput={(event) => {
          setText(event.currentTarget.value);
          props.onText?.(event.currentTarget.value);
        }}
        onKeyDown={(event) => event.key === "Enter" && setFilters({ [name]: text.trim() })}
      />
    </label>
  );
}

/** A choice between a few options, as a row of buttons. */
export function Choice(props: {
  name: string;
  label: string;
  options: [value: string, label: string][];
  fallback: string;
}) {
  const chosen = filter(props.name, props.fallback);
  return (
    <fieldset class="choice">
      <legend>{props.label}</legend>
      {props.options.map(([value, label]) => (
        <button
          type="button"
          key={value}
          aria-pressed={value === chosen}
          onClick={() => setFilters({ [props.name]: value === props.fallback ? undefined : value })}
        >
          {label}
        </button>
      ))}
    </fieldset>
  );
}
