using System.CommandLine;
using Wayleave.Cli.Output;
using Wayleave.Devices.Rdma;
using Wayleave.Host.Programs;
using Wayleave.Ports.Programs;

namespace Wayleave.Cli.Commands;

/// <summary><c>wayleave run</c>: a program of libibverbs on a NIC in its own process.</summary>
internal static class RunCommand
{
    public static Command Create()
    {
        Option<string?> devices = new("--devices")
        {
            Description = "Its NICs, each with an address of its own; a free loopback address without this",
            HelpName = "NAME@ADDRESS,...",
        };
        Option<bool> ns = new("--ns")
        {
            Description = "In a namespace with the device files that UCX and others look for",
        };
        Option<string?> faults = new("--faults")
        {
            Description = $"Faults that its NICs inflict on themselves: {FaultOptions.Forms}",
            HelpName = "SPEC",
        };
        Option<string?> trace = new("--trace")
        {
            Description = "Write what it does to a file that ui.perfetto.dev opens",
            HelpName = "FILE",
        };
        Option<string?> pcap = new("--pcap") { Description = "Write its packets to a file", HelpName = "FILE" };
        Option<bool> report = new("--report") { Description = "Say afterwards what its NICs have done" };
        ProgramArgument program = new("command")
        {
            Description = "The program and its arguments, after --",
            Arity = ArgumentArity.OneOrMore,
        };
        Command command = new("run", "Run a program of libibverbs without a NIC")
        {
            devices, ns, faults, trace, pcap, report, program,
        };
        command.SetAction(async (parsed, cancellation) =>
        {
            CommandContext context = new(parsed);
            string[] run = parsed.GetValue(program)!;
            if (parsed.GetValue(faults) is { } text && !FaultOptions.TryParse(text, out _, out string problem))
            {
                throw new UsageException($"--faults: {problem}");
            }

            if (parsed.GetValue(devices) is { } list && VerbsProgram.Normalize(list) is null)
            {
                throw new UsageException($"--devices: {list} is no list NAME@ADDRESS,...");
            }

            if (VerbsProgram.WhyDeaf(run[0]) is { } reason)
            {
                context.Error.WriteLine($"wayleave: {reason}");
            }

            VerbsRunOptions options = new()
            {
                Devices = parsed.GetValue(devices) ?? VerbsProgram.ChooseDevices(),
                Faults = parsed.GetValue(faults),
                TracePath = parsed.GetValue(trace),
                PcapPath = parsed.GetValue(pcap),
                Reports = parsed.GetValue(report),
                HasNamespace = parsed.GetValue(ns),
            };
            VerbsRunResult result = await VerbsProgram.RunAsync(run, options, cancellation).ConfigureAwait(false);
            if (options.Reports)
            {
                Report(context, result.Reports);
            }

            return result.ExitCode;
        });
        return command;
    }

    // The program's own output is on ours: this is talk.
    private static void Report(CommandContext context, IReadOnlyList<ProgramReport> reports)
    {
        PlainTextWriter error = new(context.Error); // names of programs and devices
        if (reports.Count == 0)
        {
            error.WriteLine("wayleave: no device was used");
        }

        foreach (ProgramReport report in reports)
        {
            IReadOnlyDictionary<ReportCounter, long> n = report.Counters;
            error.WriteLine($"wayleave: {report.Program} ({report.ProcessId}), {report.Device}@{report.Address}");
            error.WriteLine(
                $"  sent {n[ReportCounter.PacketsSent]} packets, {n[ReportCounter.BytesSent]} bytes; "
                + $"received {n[ReportCounter.PacketsReceived]}, {n[ReportCounter.BytesReceived]} bytes");
            error.WriteLine(
                $"  placed {n[ReportCounter.BytesPlaced]} bytes, staged {n[ReportCounter.BytesStaged]}, "
                + $"refused {n[ReportCounter.BytesRejected]}");
            error.WriteLine(
                $"  NAKs {n[ReportCounter.NaksSent]} sent, {n[ReportCounter.NaksReceived]} received; "
                + $"RNR NAKs {n[ReportCounter.RnrNaksSent]} sent, {n[ReportCounter.RnrNaksReceived]} received");
            error.WriteLine(
                $"  retries {n[ReportCounter.Retransmits]}, time-outs {n[ReportCounter.Timeouts]}, "
                + $"duplicates {n[ReportCounter.Duplicates]}, dropped {n[ReportCounter.PacketsDropped]}");
            error.WriteLine($"  revokes {n[ReportCounter.Revokes]}, faults {n[ReportCounter.Faults]}");
        }
    }
}
