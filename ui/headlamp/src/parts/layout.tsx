// The frame of a page, and what could not be read.
import { Loader, SectionBox, SectionHeader } from '@kinvolk/headlamp-plugin/lib/CommonComponents';
import { Alert, Box, Stack } from '@mui/material';
import { ReactNode } from 'react';

export function Problems({ problems }: { problems: string[] }) {
  if (problems.length === 0) return null;
  return (
    <Stack spacing={1} sx={{ marginBottom: 2 }}>
      {problems.map(problem => (
        <Alert
          key={problem}
          severity="warning"
          variant="outlined"
          sx={{ borderColor: 'warning.main' }}
        >
          {problem}
        </Alert>
      ))}
    </Stack>
  );
}

interface PageProps {
  title: string;
  /** Beside the title. */
  aside?: ReactNode;
  loading: boolean;
  problems: string[];
  children: ReactNode;
}

/** A whole page. Nothing is shown as missing before the first answer is there. */
export function Page({ title, aside, loading, problems, children }: PageProps) {
  return (
    <Box component="section" aria-label={title} sx={{ paddingBottom: 4 }}>
      <SectionHeader title={title} headerStyle="main" titleSideActions={aside ? [aside] : []} />
      <Box sx={{ paddingX: { xs: 0, sm: 2 } }}>
        <Problems problems={problems} />
      </Box>
      {loading ? <Loader title={`Loading ${title}`} /> : children}
    </Box>
  );
}

interface SectionProps {
  title?: string;
  loading?: boolean;
  problems?: string[];
  children: ReactNode;
}

/** A part of a page of ours, or of Headlamp's own. */
export function Section({ title, loading = false, problems = [], children }: SectionProps) {
  return (
    <SectionBox title={title}>
      <Problems problems={problems} />
      {loading ? <Loader title={`Loading ${title ?? ''}`} /> : children}
    </SectionBox>
  );
}

/** Whether it may be said that there is nothing where there are no rows: what could not be read is not none. */
export function isKnown(problems: string[], rows: readonly unknown[]): boolean {
  return rows.length > 0 || problems.length === 0;
}
