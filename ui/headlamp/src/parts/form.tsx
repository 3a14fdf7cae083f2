// Fields of the forms that say what packet is meant.
import {
  Box,
  Checkbox,
  FormControl,
  FormControlLabel,
  FormGroup,
  FormLabel,
  TextField,
} from '@mui/material';
import { ReactNode, RefObject, useId, useRef, useState } from 'react';
import { useLocation } from 'react-router-dom';
import {
  ANY,
  DESTINATIONS,
  EMPTY,
  FAMILIES,
  familyOf,
  Form,
  hasPorts,
  Problems,
  PROTOCOLS,
  readForm,
  SOURCES,
} from '../model/form';
import { FLAGS, TraceSpec } from '../model/trace';
import { useNames } from '../traces';
import { useShade } from './values';

/** Fields whose value is text. */
type TextKey = {
  [key in keyof Form]: Form[key] extends string ? key : never;
}[keyof Form];

export interface Editing {
  form: Form;
  problems: Problems;
  set: (change: Partial<Form>) => void;
}

interface FieldProps {
  editing: Editing;
  field: TextKey;
  label: string;
  help?: string;
  /** What can be typed in, as a help. */
  names?: string[];
  /** What can be chosen, where nothing else may be. */
  choices?: readonly string[];
}

export function Field({ editing, field, label, help, names = [], choices }: FieldProps) {
  const list = useId();
  const shade = useShade();
  const { form, problems, set } = editing;
  const problem = problems[field];
  return (
    <>
      <TextField
        label={label}
        size="small"
        select={choices !== undefined}
        value={form[field]}
        onChange={event => set({ [field]: event.target.value })}
        error={problem !== undefined}
        helperText={problem ? `${label} ${problem}` : help}
        InputLabelProps={{ shrink: true }}
        SelectProps={{ native: true }}
        inputProps={{
          list: names.length > 0 ? list : undefined,
          autoComplete: 'off',
          spellCheck: false,
          'aria-invalid': problem !== undefined,
        }}
        sx={{
          flex: '1 1 220px',
          maxWidth: 400,
          '& .MuiInputLabel-root.Mui-error, & .MuiFormHelperText-root.Mui-error': {
            color: shade('error'),
          },
        }}
      >
        {choices?.map(choice => (
          <option key={choice} value={choice}>
            {choice}
          </option>
        ))}
      </TextField>
      {names.length > 0 && (
        <datalist id={list}>
          {names.map(name => (
            <option key={name} value={name} />
          ))}
        </datalist>
      )}
    </>
  );
}

export function Group({ title, children }: { title: string; children: ReactNode }) {
  return (
    <FormControl component="fieldset" sx={{ display: 'block', marginBottom: 3 }}>
      <FormLabel component="legend" sx={{ marginBottom: 2, color: 'text.primary' }}>
        {title}
      </FormLabel>
      <Box sx={{ display: 'flex', flexWrap: 'wrap', alignItems: 'flex-start', gap: 2 }}>
        {children}
      </Box>
    </FormControl>
  );
}

interface CheckProps {
  label: string;
  checked: boolean;
  onChange: (checked: boolean) => void;
}

export function Check({ label, checked, onChange }: CheckProps) {
  return (
    <FormControlLabel
      label={label}
      control={
        <Checkbox
          color="default"
          checked={checked}
          onChange={event => onChange(event.target.checked)}
        />
      }
    />
  );
}

function pathOf(namespace: string, known: string[], plural: string): string | null {
  // Not for each letter that is typed in.
  return known.includes(namespace) ? `/api/v1/namespaces/${namespace}/${plural}` : null;
}

export function Source({ editing, namespaces }: { editing: Editing; namespaces: string[] }) {
  const { live, sourceType, sourceNamespace } = editing.form;
  const pods = useNames(pathOf(sourceNamespace, namespaces, 'pods'));
  const type = live ? sourceType : 'Pod';
  return (
    <Group title="From">
      {live && (
        <Field
          editing={editing}
          field="sourceType"
          label="Kind of source"
          choices={[...SOURCES, ANY]}
        />
      )}
      {type === 'Pod' && (
        <>
          <Field
            editing={editing}
            field="sourceNamespace"
            label="Source namespace"
            names={namespaces}
          />
          <Field editing={editing} field="sourcePod" label="Source Pod" names={pods} />
        </>
      )}
      {type === 'Address' && (
        <Field editing={editing} field="sourceAddress" label="Source address" />
      )}
    </Group>
  );
}

export function Destination({ editing, namespaces }: { editing: Editing; namespaces: string[] }) {
  const { live, destinationType: type, destinationNamespace } = editing.form;
  const plural = type === 'Service' ? 'services' : 'pods';
  const names = useNames(pathOf(destinationNamespace, namespaces, plural));
  return (
    <Group title="To">
      <Field
        editing={editing}
        field="destinationType"
        label="Kind of destination"
        choices={live ? [...DESTINATIONS, ANY] : DESTINATIONS}
      />
      {type === 'Address' && (
        <Field editing={editing} field="destinationAddress" label="Destination address" />
      )}
      {(type === 'Pod' || type === 'Service') && (
        <>
          <Field
            editing={editing}
            field="destinationNamespace"
            label="Destination namespace"
            names={namespaces}
          />
          <Field
            editing={editing}
            field="destinationName"
            label={`Destination ${type}`}
            names={names}
          />
        </>
      )}
    </Group>
  );
}

interface PacketProps {
  editing: Editing;
  /** Of a connection's first packet no more is asked than where it goes. */
  brief?: boolean;
}

export function PacketFields({ editing, brief = false }: PacketProps) {
  const { form, set } = editing;
  const addresses = [
    form.live && form.sourceType === 'Address' ? form.sourceAddress : '',
    form.destinationType === 'Address' ? form.destinationAddress : '',
  ];
  const isGiven = addresses.some(address => familyOf(address.trim()));
  return (
    <Group title={form.live ? 'Packets that fit' : 'Packet'}>
      {!isGiven && <Field editing={editing} field="family" label="IP family" choices={FAMILIES} />}
      <Field
        editing={editing}
        field="protocol"
        label="Protocol"
        choices={form.live ? [ANY, ...PROTOCOLS] : PROTOCOLS}
      />
      {hasPorts(form) && (
        <>
          <Field
            editing={editing}
            field="destinationPort"
            label="Destination port"
            help={form.live ? 'any if left empty' : undefined}
          />
          {!brief && (
            <Field
              editing={editing}
              field="sourcePort"
              label="Source port"
              help="any if left empty"
            />
          )}
        </>
      )}
      {form.protocol === 'TCP' && !brief && (
        <FormControl component="fieldset">
          <FormLabel component="legend" sx={{ color: 'text.primary' }}>
            TCP flags{form.live && ', any if none is chosen'}
          </FormLabel>
          <FormGroup row>
            {FLAGS.map(flag => (
              <Check
                key={flag}
                label={flag}
                checked={form.flags.includes(flag)}
                onChange={checked =>
                  set({
                    flags: checked
                      ? [...form.flags, flag]
                      : form.flags.filter(other => other !== flag),
                  })
                }
              />
            ))}
          </FormGroup>
        </FormControl>
      )}
    </Group>
  );
}

interface FormState {
  editing: Editing;
  /** Names of namespaces, as a help. */
  namespaces: string[];
  element: RefObject<HTMLFormElement>;
  /** What the form says; null after marking what is wrong, the first of which gets the focus. */
  read: () => TraceSpec | null;
}

/** A form that begins with the Pod that the page's address names, if it does. */
export function useForm(): FormState {
  const query = new URLSearchParams(useLocation().search);
  const [form, setForm] = useState<Form>({
    ...EMPTY,
    sourceNamespace: query.get('namespace') ?? '',
    sourcePod: query.get('name') ?? '',
    destinationNamespace: query.get('namespace') ?? '',
  });
  const [problems, setProblems] = useState<Problems>({});
  const element = useRef<HTMLFormElement>(null);
  const namespaces = useNames('/api/v1/namespaces');
  const set = (change: Partial<Form>) => {
    const next = { ...form, ...change };
    setForm(next);
    // What was found wrong is not wrong any longer once it is mended; nothing is called wrong while it is typed in.
    const still = readForm(next).problems;
    setProblems(before =>
      Object.fromEntries(Object.entries(still).filter(([field]) => field in before))
    );
  };
  const read = () => {
    const { spec, problems: found } = readForm(form);
    setProblems(found);
    if (Object.keys(found).length === 0) return spec;
    const isWrong = '[aria-invalid=true]';
    // Once the fields are marked.
    setTimeout(() => element.current?.querySelector<HTMLElement>(isWrong)?.focus());
    return null;
  };
  return { editing: { form, problems, set }, namespaces, element, read };
}
