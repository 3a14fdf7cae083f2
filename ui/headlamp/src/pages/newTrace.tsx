// The form of a new trace.
import { Alert, Box, Button, Typography } from '@mui/material';
import { FormEvent, useState } from 'react';
import { ANY, EMPTY } from '../model/form';
import { TIMEOUT } from '../model/trace';
import { Check, Destination, Field, Group, PacketFields, Source, useForm } from '../parts/form';
import { Page, Section } from '../parts/layout';
import { useTraceActions, useTraces } from '../traces';
import { GateOff, NotServed } from './traces';

function TraceForm() {
  const { editing, namespaces, element, read } = useForm();
  const { form, set } = editing;
  const [failed, setFailed] = useState('');
  const [busy, setBusy] = useState(false);
  const { create } = useTraceActions();
  const submit = async (event: FormEvent) => {
    event.preventDefault();
    const spec = read();
    setFailed('');
    if (!spec) return;
    setBusy(true);
    try {
      await create(spec);
    } catch (error) {
      setFailed((error as Error).message);
      setBusy(false);
    }
  };
  return (
    <Box component="form" noValidate ref={element} onSubmit={submit} aria-label="New trace">
      <Group title="What is traced">
        <Check
          label="Watch live traffic instead of sending a packet"
          checked={form.live}
          onChange={live =>
            set({
              live,
              // Of what is sent the first packet of a connection; of what is watched any.
              flags: live ? [] : EMPTY.flags,
              destinationType: !live && form.destinationType === ANY ? 'Pod' : form.destinationType,
            })
          }
        />
        {form.live && (
          <Check
            label="Only a packet that is dropped"
            checked={form.droppedOnly}
            onChange={droppedOnly => set({ droppedOnly })}
          />
        )}
      </Group>
      <Source editing={editing} namespaces={namespaces} />
      <Destination editing={editing} namespaces={namespaces} />
      <PacketFields editing={editing} />
      <Group title="Time">
        <Field
          editing={editing}
          field="timeout"
          label="Timeout"
          help={`seconds, ${TIMEOUT} if left empty`}
        />
      </Group>
      {failed && (
        <Alert
          severity="error"
          variant="outlined"
          sx={{ marginBottom: 2, color: 'text.primary', borderColor: 'error.main' }}
        >
          The trace cannot be made: {failed}
        </Alert>
      )}
      <Button type="submit" variant="outlined" color="inherit" disabled={busy}>
        Start the trace
      </Button>
    </Box>
  );
}

export function NewTrace() {
  const { problems, loading, served } = useTraces();
  return (
    <Page title="New trace" problems={problems} loading={loading}>
      {served === false ? (
        <NotServed />
      ) : (
        <Section>
          <GateOff />
          <Typography sx={{ marginBottom: 3 }}>
            A packet is sent from a Pod, or one is picked out of live traffic, and every node tells
            what it did with it.
          </Typography>
          <TraceForm />
        </Section>
      )}
    </Page>
  );
}
