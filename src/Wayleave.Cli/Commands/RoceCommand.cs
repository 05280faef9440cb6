using System.CommandLine;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Host;
using Wayleave.Scenarios.Vectors;

namespace Wayleave.Cli.Commands;

/// <summary>
/// <c>wayleave roce</c>: looks at captured RoCEv2 packets, and plays one side of a captured connection.
/// </summary>
internal static class RoceCommand
{
    private const int PortsShown = 4;
    private const string NameCapture = "name a capture, as \"tcpdump -w FILE\" writes it";

    public static Command Create() => new("roce", "Check captured RoCEv2 packets, or replay one side of a connection")
    {
        CreateCheck(),
        CreateReplay(),
    };

    private static Command CreateCheck()
    {
        Argument<string> pcap = PcapArgument();
        Option<ushort[]> port = new("--port")
        {
            Description = "A UDP port that RoCEv2 packets go to, may be repeated (default 4791)",
            HelpName = "N",
        };
        Command command = new("check", "Decode the packets of a capture and check their ICRC; fails if any is bad")
        {
            pcap,
            port,
        };
        command.SetAction(parsed =>
        {
            string path = parsed.GetRequiredValue(pcap);
            ushort[]? ports = parsed.GetValue(port) is { Length: > 0 } given ? given : null;
            return Check(new CommandContext(parsed), path, ReadCapture(path, ports));
        });
        return command;
    }

    private static Command CreateReplay()
    {
        Argument<string> pcap = PcapArgument();
        Argument<string> json = new("JSON") { Description = "The description that goes with the capture" };
        Option<ReplayRole> role = new("--role")
        {
            Description = "Which side our stack plays: responder gets the captured requests, requester makes them",
            HelpName = "SIDE",
            Required = true,
        };
        role.AcceptOnlyFromAmong(StringComparer.OrdinalIgnoreCase, "responder", "requester");
        Command command = new("replay", "Play one side of a captured connection and compare it with the capture")
        {
            pcap,
            json,
            role,
        };
        command.SetAction(parsed =>
        {
            (string pcapPath, string jsonPath) = (parsed.GetRequiredValue(pcap), parsed.GetRequiredValue(json));
            return Replay(new CommandContext(parsed), pcapPath, jsonPath, parsed.GetValue(role));
        });
        return command;
    }

    private static int Check(CommandContext context, string path, Capture capture)
    {
        CheckReport report = CheckReport.Of(capture);
        if (context.IsJson)
        {
            context.Out.WriteLine(report.ToJson());
        }
        else
        {
            WriteLines(context.Out, capture);
            context.Out.WriteLine(report.Summary);
        }

        if (report.PacketCount == 0 && capture.SkippedUdpPorts.Take(PortsShown).ToArray() is { Length: > 0 } ports)
        {
            string others = string.Join(", ", ports);
            context.Error.WriteLine(
                $"wayleave: check {path}: no packet goes to the RoCEv2 port; --port names others, such as {others}");
        }

        if (report.FileProblem is { } problem)
        {
            context.Error.WriteLine($"wayleave: check {path}: {problem}; capture again for the rest");
        }

        return report.IsSound ? ExitCode.Done : ExitCode.Failed;
    }

    private static int Replay(CommandContext context, string pcapPath, string jsonPath, ReplayRole role)
    {
        Capture capture = ReadCapture(pcapPath, udpPorts: null);
        if (capture.Status != PcapStatus.End)
        {
            throw new WayleaveException(
                Errno.EINVAL, $"read {pcapPath}", PcapReader.Describe(capture.Status), "capture again");
        }

        ReplayReport report = Replay(capture, jsonPath, role);
        if (context.IsJson)
        {
            context.Out.WriteLine(report.ToJson());
        }
        else
        {
            WriteReplay(context.Out, Path.GetFileNameWithoutExtension(pcapPath), capture, report);
        }

        return report.Result switch
        {
            ReplayResult.Match => ExitCode.Done,
            ReplayResult.NotSupported when report.Check is { IsSound: true } => ExitCode.NotSupported,
            _ => ExitCode.Failed,
        };
    }

    private static ReplayReport Replay(Capture capture, string jsonPath, ReplayRole role)
    {
        try
        {
            return Replayer.Run(capture, CaptureVector.Parse(ReadFile(jsonPath)), role);
        }
        catch (FormatException e)
        {
            throw new WayleaveException(Errno.EINVAL, $"replay {jsonPath}", e.Message, innerException: e);
        }
    }

    private static void WriteReplay(TextWriter output, string name, Capture capture, ReplayReport report)
    {
        if (report.Check is { } check)
        {
            WriteLines(output, capture);
            output.WriteLine(check.Summary);
        }

        foreach (ReplayMismatch mismatch in report.Mismatches)
        {
            output.WriteLine(mismatch.ToString());
        }

        output.WriteLine($"{name}: {report.Summary}");
    }

    private static void WriteLines(TextWriter output, Capture capture)
    {
        long first = capture.Packets.Count > 0 ? capture.Packets[0].TimestampNanoseconds : 0;
        foreach (CapturedPacket packet in capture.Packets)
        {
            output.WriteLine($"{packet.Index,4}  {PacketText.Line(packet, first)}");
        }
    }

    private static Argument<string> PcapArgument() =>
        new("PCAP") { Description = "A packet capture of Ethernet frames, as tcpdump writes it" };

    private static Capture ReadCapture(string path, ushort[]? udpPorts)
    {
        byte[] file = ReadFile(path);
        PcapStatus status = file.Length == 0
            ? throw new WayleaveException(Errno.EINVAL, $"read {path}", "the file is empty", NameCapture)
            : Capture.TryRead(file, out Capture? capture, udpPorts);
        if (status == PcapStatus.Success)
        {
            return capture!;
        }

        // These are captures, only not of a kind that this version reads.
        Errno errno = status is PcapStatus.WrongLinkType or PcapStatus.NextGeneration ? Errno.EOPNOTSUPP : Errno.EINVAL;
        string? remedy = status switch
        {
            PcapStatus.NextGeneration => null, // the reason says what to do
            PcapStatus.WrongLinkType => "capture at an Ethernet interface, or at lo",
            PcapStatus.UnknownVersion => "convert it with \"editcap -F pcap\"",
            _ => NameCapture,
        };
        throw new WayleaveException(errno, $"read {path}", PcapReader.Describe(status), remedy);
    }

    private static byte[] ReadFile(string path)
    {
        try
        {
            return Directory.Exists(path)
                ? throw new WayleaveException(Errno.EINVAL, $"read {path}", "it is a folder", "name a file in it")
                : File.ReadAllBytes(path);
        }
        catch (Exception e) when (e is IOException and not WayleaveException or UnauthorizedAccessException)
        {
            throw ErrnoMap.ToException(e, $"read {path}", ErrnoMap.ToErrno(e) switch
            {
                Errno.ENOENT or Errno.ENOTDIR => "check the name",
                Errno.EACCES => "ask its owner for the right to read it",
                _ => null,
            });
        }
    }
}
