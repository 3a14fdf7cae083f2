// Traces: their list, and one with its path.
import { Link, SimpleTable } from '@kinvolk/headlamp-plugin/lib/CommonComponents';
import { Alert, Box, Button, Dialog, DialogActions, DialogTitle, Typography } from '@mui/material';
import { useState } from 'react';
import { useParams } from 'react-router-dom';
import { ObjectName } from '../model/rows';
import { packetLines, TraceEntry, TraceSpec, TraceView } from '../model/trace';
import { Page, Problems, Section } from '../parts/layout';
import { Fact, Facts, useFilter } from '../parts/tables';
import { OutcomeLabel, Path } from '../parts/trace';
import { Ago, NOTHING, ObjectLink } from '../parts/values';
import { ROUTES } from '../routes';
import { useGateOff, useTrace, useTraceActions, useTraces } from '../traces';

/** That nobody runs traces, where that is known. */
export function GateOff() {
  const off = useGateOff();
  if (off.length === 0) return null;
  return (
    <Problems
      problems={[
        `The feature gate Traceflow is off for ${off.join(
          ' and '
        )}: traces are not run. It is switched on by spec.featureGates of the AntreaInstallation, or in the ConfigMap antrea-config.`,
      ]}
    />
  );
}

/** What is told where there is no such thing as a trace. */
export function NotServed() {
  return (
    <Section title="No Traceflow">
      <Typography>
        This cluster does not serve Traceflows (crd.antrea.io/v1beta1): no trace can be made. Either
        Antrea is not installed, or its version does not have them.
      </Typography>
    </Section>
  );
}

function endText(namespace: string, name: string): string {
  return namespace ? `${namespace}/${name}` : name || 'any';
}

export function Traces() {
  const { data, problems, loading, served } = useTraces();
  const [field, rows] = useFilter('Filter by name, end or outcome', data, row => [
    row.name,
    endText(row.sourceNamespace, row.source),
    endText(row.destinationNamespace, row.destination),
    row.outcome.word,
  ]);
  return (
    <Page title="Traceflow" problems={problems} loading={loading}>
      {served === false && <NotServed />}
      {served && (
        <Section>
          <GateOff />
          <Typography>The way of one packet, as the nodes saw it.</Typography>
          <Box sx={{ marginY: 2 }}>
            <TraceLink>New trace</TraceLink>
          </Box>
          {field}
          <SimpleTable
            data={rows}
            emptyMessage="There are no traces."
            columns={[
              {
                label: 'Name',
                getter: (row: TraceEntry) => (
                  <Link routeName={ROUTES.trace.name} params={{ name: row.name }}>
                    {row.name}
                  </Link>
                ),
                gridTemplate: '2fr',
              },
              {
                label: 'From',
                getter: (row: TraceEntry) => endText(row.sourceNamespace, row.source),
                gridTemplate: '1fr',
              },
              {
                label: 'To',
                getter: (row: TraceEntry) => endText(row.destinationNamespace, row.destination),
                gridTemplate: '1fr',
              },
              {
                label: 'Protocol',
                getter: (row: TraceEntry) => row.protocol || NOTHING,
                gridTemplate: 'auto',
              },
              {
                label: 'Packet',
                getter: (row: TraceEntry) => (row.live ? 'live' : 'sent'),
                gridTemplate: 'auto',
              },
              {
                label: 'Outcome',
                getter: (row: TraceEntry) => <OutcomeLabel outcome={row.outcome} />,
                gridTemplate: 'auto',
              },
              {
                label: 'Made',
                getter: (row: TraceEntry) => <Ago time={row.created} />,
                gridTemplate: 'auto',
              },
            ]}
          />
        </Section>
      )}
    </Page>
  );
}

interface TraceLinkProps {
  from?: ObjectName;
  children: string;
}

/** To the form of a new trace. */
export function TraceLink({ from, children }: TraceLinkProps) {
  return (
    <Link routeName={ROUTES.newTrace.name} search={from && { ...from }}>
      {children}
    </Link>
  );
}

function traceFacts({ row }: TraceView, spec: TraceSpec): Fact[] {
  const end = (kind: string, namespace: string, name: string) => {
    const own = kind === 'Pod' ? 'pod' : kind === 'Service' ? 'service' : null;
    return own ? <ObjectLink key="" kind={own} name={{ namespace, name }} /> : name || 'any';
  };
  const dropped = spec.droppedOnly ? ', only one that is dropped' : '';
  return [
    ['From', end(spec.source?.pod ? 'Pod' : '', row.sourceNamespace, row.source)],
    ['To', end(row.destinationType, row.destinationNamespace, row.destination)],
    ['Packet', row.live ? `the first of live traffic that fits${dropped}` : 'one that is sent'],
    ...packetLines(spec.packet),
    ['Made', <Ago key="" time={row.created} />],
  ];
}

export function Trace() {
  const { name } = useParams<{ name: string }>();
  const { data, spec, problems, loading, missing } = useTrace(name);
  const { create, remove } = useTraceActions();
  const [asks, setAsks] = useState(false);
  const [failed, setFailed] = useState('');
  const run = (action: Promise<void>) => {
    setAsks(false);
    setFailed('');
    action.catch((error: Error) => setFailed(error.message));
  };
  return (
    <Page title={`Trace ${name}`} problems={problems} loading={loading}>
      {missing === 'kind' && <NotServed />}
      {missing === 'trace' && (
        <Section title="No such trace">
          <Typography>There is no Traceflow {name}: it was deleted, or never made.</Typography>
        </Section>
      )}
      {data && (
        <>
          <Section title="Outcome">
            {!data.ended && <GateOff />}
            <Box
              role="status"
              sx={{ display: 'flex', flexWrap: 'wrap', alignItems: 'center', gap: 1 }}
            >
              <OutcomeLabel outcome={data.outcome} />
              <span>{data.outcome.text}</span>
            </Box>
            {failed && (
              <Alert
                severity="error"
                variant="outlined"
                sx={{ marginTop: 2, color: 'text.primary' }}
              >
                {failed}
              </Alert>
            )}
            <Box sx={{ display: 'flex', gap: 2, marginTop: 2 }}>
              <Button variant="outlined" color="inherit" onClick={() => run(create(spec))}>
                Run again
              </Button>
              <Button variant="outlined" color="inherit" onClick={() => setAsks(true)}>
                Delete
              </Button>
            </Box>
          </Section>
          <Section title="Path">
            <Path hops={data.hops} omitted={data.omitted} />
          </Section>
          <Section title="What was asked for">
            <Facts facts={traceFacts(data, spec)} />
          </Section>
          {data.captured.length > 0 && (
            <Section title="Captured packet">
              <Facts facts={data.captured} />
            </Section>
          )}
        </>
      )}
      <Dialog open={asks} onClose={() => setAsks(false)} aria-labelledby="antrea-delete-trace">
        <DialogTitle id="antrea-delete-trace">Delete trace {name}?</DialogTitle>
        <DialogActions>
          <Button color="inherit" onClick={() => setAsks(false)}>
            Keep it
          </Button>
          <Button variant="outlined" color="inherit" onClick={() => run(remove(name))}>
            Delete it
          </Button>
        </DialogActions>
      </Dialog>
    </Page>
  );
}
