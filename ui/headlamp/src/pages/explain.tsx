// Why a Pod reaches another, or does not.
import { Link, SimpleTable } from '@kinvolk/headlamp-plugin/lib/CommonComponents';
import { Box, Button, Typography } from '@mui/material';
import { FormEvent } from 'react';
import { useExplanation } from '../explain';
import { Answer, endText, Explanation, Finding } from '../model/explain';
import { ObjectName } from '../model/rows';
import { Destination, PacketFields, Source, useForm } from '../parts/form';
import { Page, Section } from '../parts/layout';
import { Path } from '../parts/trace';
import { Label, NOTHING, Status } from '../parts/values';
import { ROUTES } from '../routes';
import { GateOff } from './traces';

const ANSWERS: Record<Answer, [Status, string]> = {
  allowed: ['success', 'Allowed'],
  denied: ['error', 'Denied'],
  broken: ['error', 'Broken'],
  unknown: ['warning', 'Not known'],
};

const RESULTS: Record<Finding['result'], [Status, string]> = {
  ok: ['success', 'ok'],
  note: ['', 'note'],
  unknown: ['warning', 'not known'],
  denied: ['error', 'denied'],
  broken: ['error', 'broken'],
};

interface ExplainLinkProps {
  from: ObjectName;
  children: string;
}

/** To the form, with a Pod that sends. */
export function ExplainLink({ from, children }: ExplainLinkProps) {
  return (
    <Link routeName={ROUTES.explain.name} search={{ ...from }}>
      {children}
    </Link>
  );
}

function Findings({ findings }: { findings: Finding[] }) {
  return (
    <SimpleTable
      data={findings}
      emptyMessage="Nothing was found."
      columns={[
        { label: 'What was looked at', datum: 'check', gridTemplate: 'auto' },
        {
          label: 'Result',
          getter: ({ result }: Finding) => {
            const [status, word] = RESULTS[result];
            return <Label status={status}>{word}</Label>;
          },
          gridTemplate: 'auto',
        },
        { label: 'Finding', datum: 'detail', gridTemplate: '2fr' },
        {
          label: 'What to do',
          getter: ({ advice }: Finding) => advice ?? NOTHING,
          gridTemplate: '1fr',
        },
      ]}
    />
  );
}

function Verdict({ explanation }: { explanation: Explanation }) {
  const [status, word] = ANSWERS[explanation.verdict];
  return (
    <Box sx={{ display: 'flex', flexWrap: 'wrap', alignItems: 'center', gap: 1 }}>
      <Label status={status}>{word}</Label>
      <span>{explanation.reason}</span>
    </Box>
  );
}

export function Explain() {
  const { editing, namespaces, element, read } = useForm();
  const { spec, explanation, trace, busy, ask } = useExplanation();
  const submit = (event: FormEvent) => {
    event.preventDefault();
    const wanted = read();
    if (wanted) ask(wanted);
  };
  return (
    <Page title="Explain" problems={[]} loading={false}>
      <Section>
        <GateOff />
        <Typography sx={{ marginBottom: 3 }}>
          What becomes of the first packet of a connection, and why. The controller is asked which
          policy decides, and such a packet is sent; it is not handed to the Pod at its end. What
          only the Nodes know, routes, neighbours and rules of theirs, tells{' '}
          <code>antctl explain</code>.
        </Typography>
        <Box component="form" noValidate ref={element} onSubmit={submit} aria-label="Explain">
          <Source editing={editing} namespaces={namespaces} />
          <Destination editing={editing} namespaces={namespaces} />
          <PacketFields editing={editing} brief />
          <Button type="submit" variant="outlined" color="inherit" disabled={busy}>
            Explain
          </Button>
        </Box>
      </Section>
      {spec && (
        <Section title={`${endText(spec.source ?? {})} to ${endText(spec.destination ?? {})}`}>
          <Box role="status">
            {explanation ? (
              <Verdict explanation={explanation} />
            ) : (
              'Asking both ends, the controller and the Nodes…'
            )}
          </Box>
          {explanation && (
            <Box sx={{ marginTop: 2 }}>
              <Findings findings={explanation.findings} />
            </Box>
          )}
        </Section>
      )}
      {explanation && trace && (
        <Section title="The packet that was sent">
          <Path hops={trace.hops} omitted={trace.omitted} />
        </Section>
      )}
    </Page>
  );
}
