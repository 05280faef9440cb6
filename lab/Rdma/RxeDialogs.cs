using System.Buffers.Binary;
using System.Text.Json.Nodes;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Lab.Guests;
using Wayleave.Lab.Interop;
using Wayleave.Scenarios.Vectors;

namespace Wayleave.Lab.Rdma;

/// <summary>
/// Plays dialogs between two of the kernel's devices over a virtual wire, captures each into a file of its own, checks
/// the captures with our reader, and records which packets the kernel chose.
/// </summary>
internal static class RxeDialogs
{
    private const int SeedA = 0x11;
    private const int SeedB = 0x55;
    private const int Long = 3502; // four packets of 1024, the last with a pad
    private const int At = 0x100;

    private static readonly DialogCase[] s_plain =
    [
        new("send_only", p => Send(p, 64)),
        new("send_zero", p => Send(p, 0)),
        new("send_multi", p => Send(p, Long)),
        new("send_imm_multi", p => Send(p, Long, 0xdeadbeef)),
        new("write_only", p => Write(p, 64)),
        new("write_zero", p => Write(p, 0)),
        new("write_multi", p => Write(p, Long)),
        new("write_imm_multi", p => WriteImmediate(p, Long)),
        new("write_psn_wrap", p => Write(p, Long)) { Psn = 0xfffffe },
        new("write_mtu256", p => Write(p, 1001)) { Mtu = 256 },
        new("write_mtu4096", p => Write(p, 9000)) { Mtu = 4096 },
        new("read_only", p => Read(p, 64)),
        new("read_zero", p => Read(p, 0)),
        new("read_multi", p => Read(p, Long)),
        new("read_psn_wrap", p => Read(p, Long)) { Psn = 0xfffffe },
        new("read_mtu4096", p => Read(p, 9000)) { Mtu = 4096 },
        new("atomic_cas", CompareAndSwap),
        new("atomic_faa", FetchAndAdd),
        new("nak_bad_rkey", p => Refused(p, () => p.Write(64, At, key: p.B.RKey ^ 0x5500))),
        new("nak_bad_rkey_read", p => Refused(p, () => p.Read(64, At, 0, key: p.B.RKey ^ 0x5500))),
        new("nak_bounds", p => Refused(p, () => p.Write(64, VerbsDevice.Size - 32))),
        new("nak_qp_access", p => Refused(p, () => p.Write(64, At))) { Access = 0 },
        new("nak_recv_too_small", ReceiveTooSmall),
        new("uc_send", p => Send(p, 64)) { Type = Verbs.QpTypeUc },
        new("uc_write_multi", p => Write(p, Long, needsFence: true)) { Type = Verbs.QpTypeUc },
        new("ud_send", p => Send(p, 64)) { Type = Verbs.QpTypeUd },
        new("ud_send_imm", p => Send(p, 64, 0xdeadbeef)) { Type = Verbs.QpTypeUd },
    ];

    private static readonly string[] s_alsoIpv6 = ["send_only", "write_multi", "read_multi", "atomic_faa", "ud_send"];

    /// <summary>
    /// The arguments are the two devices; A's end of the wire is <c>va</c> in the namespace <c>a</c>.
    /// </summary>
    internal static int Run(string[] arguments)
    {
        if (arguments is not [string nameA, string nameB])
        {
            return ExitCodes.Usage;
        }

        VerbsDevice a = new(nameA), b = new(nameB);
        Records records = new();
        IEnumerable<DialogCase> ipv6 = s_plain.Where(c => s_alsoIpv6.Contains(c.Name))
            .Select(c => c with { Name = "ip6_" + c.Name, IsIpv6 = true });
        bool isRight = true;
        foreach (DialogCase dialog in (IEnumerable<DialogCase>)[.. s_plain, .. ipv6])
        {
            isRight &= Play(a, b, dialog, records);
        }

        return isRight ? ExitCodes.Done : ExitCodes.Failed;
    }

    private static bool Play(VerbsDevice a, VerbsDevice b, DialogCase dialog, Records records)
    {
        string file = Path.Combine(Rendezvous.Folder, dialog.Name + ".pcap");
        string? wrong;
        JsonObject record;
        using (RxePair pair = new(a, b, dialog))
        {
            using (new PacketCapture("a", "va", file))
            {
                wrong = dialog.Play(pair);
            }

            wrong ??= pair.IsQuiet ? null : "a completion came that nobody waited for";

            record = new JsonObject
            {
                ["case"] = dialog.Name,
                ["qp_type"] = dialog.Type switch { Verbs.QpTypeRc => "RC", Verbs.QpTypeUc => "UC", _ => "UD" },
                ["path_mtu"] = dialog.Mtu,
                ["completions"] = new JsonArray([.. pair.Completions.Select(c => (JsonNode)c)]),
            };
        }

        Capture capture = Read(file);
        int bad = capture.Packets.Count(p => p.Verdict != IcrcVerdict.Ok);
        wrong ??= capture.Packets.Count == 0 ? "no packet was captured"
            : bad != 0 ? $"{bad} of {capture.Packets.Count} packets fail our check of the ICRC"
            : null;
        record["content_ok"] = wrong is null;
        record["requests"] = Packets(capture, dialog, isOfA: true);
        record["answers"] = Packets(capture, dialog, isOfA: false);
        records.Add(record);
        if (wrong is not null)
        {
            Console.Error.WriteLine($"{dialog.Name}: {wrong}");
        }

        return wrong is null;
    }

    private static Capture Read(string file)
    {
        PcapStatus status = Capture.TryRead(File.ReadAllBytes(file), out Capture? capture);
        return capture ?? throw new IOException($"{file}: {status}");
    }

    // What is the kernel's choice, and not of the run: no keys, addresses, queue pair numbers or ports.
    private static JsonArray Packets(Capture capture, DialogCase dialog, bool isOfA)
    {
        string source = (dialog.IsIpv6, isOfA) switch
        {
            (false, true) => "10.77.0.1",
            (false, false) => "10.77.0.2",
            (true, true) => "fd77::1",
            (true, false) => "fd77::2",
        };
        JsonArray packets = [];
        if (!Gid.TryParse(source, out Gid from))
        {
            throw new InvalidOperationException(source);
        }

        foreach (CapturedPacket captured in capture.Packets)
        {
            if (captured.Header.Source != from || !captured.TryView(out PacketView packet))
            {
                continue;
            }

            long distance = ((packet.Psn - dialog.Psn) & 0xffffff) is uint d && d < 0x800000 ? d : d - 0x1000000L;
            string text = $"{packet.Opcode} psn {distance:+0;-0;+0} length {packet.Payload.Length}";
            text += packet.PadCount > 0 ? $" pad {packet.PadCount}" : "";
            text += packet.AckRequest ? " ack-request" : "";
            if (packet.Traits.Headers.HasFlag(ExtensionHeaders.Aeth))
            {
                text += $" syndrome 0x{packet.Aeth.Syndrome:x2} msn {packet.Aeth.Msn}";
            }

            packets.Add(text);
        }

        return packets;
    }

    private static string? Send(RxePair pair, int length, uint? immediate = null)
    {
        Dialog.Fill(pair.A.Memory[..length], SeedA);
        pair.Receive(8192);
        pair.Send(length, immediate);
        pair.Expect("AB");

        // A datagram arrives behind 40 bytes of its network header.
        int skip = pair.IsDatagram ? 40 : 0;
        return Dialog.Check(pair.B.Memory.Slice(65536 + skip, length), SeedA, "SEND");
    }

    private static string? Write(RxePair pair, int length, bool needsFence = false)
    {
        Dialog.Fill(pair.A.Memory[..length], SeedA);
        pair.Write(length, At);
        pair.Expect("A");
        if (needsFence)
        {
            // Nothing tells when a WRITE without acknowledgement has landed, but a message behind it does.
            pair.Receive(8192);
            pair.Send(0);
            pair.Expect("AB");
        }

        return Dialog.Check(pair.B.Memory.Slice(At, length), SeedA, "WRITE");
    }

    private static string? WriteImmediate(RxePair pair, int length)
    {
        Dialog.Fill(pair.A.Memory[..length], SeedA);
        pair.Receive(8192);
        pair.Write(length, At, immediate: 0xcafef00d);
        pair.Expect("AB");
        return Dialog.Check(pair.B.Memory.Slice(At, length), SeedA, "WRITE with immediate");
    }

    private static string? Read(RxePair pair, int length)
    {
        Dialog.Fill(pair.B.Memory.Slice(At, length), SeedB);
        pair.Read(length, At, into: 4096);
        pair.Expect("A");
        return Dialog.Check(pair.A.Memory.Slice(4096, length), SeedB, "READ");
    }

    private static string? CompareAndSwap(RxePair pair)
    {
        const ulong before = 0x0102030405060708, after = 0x1112131415161718;
        BinaryPrimitives.WriteUInt64LittleEndian(pair.B.Memory[64..], before);
        pair.Atomic(Verbs.OpCompareSwap, 64, 0, before, after);
        pair.Expect("A");
        pair.Atomic(Verbs.OpCompareSwap, 64, 8, before, 0);
        pair.Expect("A");
        return BinaryPrimitives.ReadUInt64LittleEndian(pair.A.Memory) == before
            && BinaryPrimitives.ReadUInt64LittleEndian(pair.A.Memory[8..]) == after
            && BinaryPrimitives.ReadUInt64LittleEndian(pair.B.Memory[64..]) == after
            ? null : "the values are not those of one swap that matched and one that did not";
    }

    private static string? FetchAndAdd(RxePair pair)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(pair.B.Memory[64..], 5);
        pair.Atomic(Verbs.OpFetchAdd, 64, 0, 16, 0);
        pair.Expect("A");
        return BinaryPrimitives.ReadUInt64LittleEndian(pair.A.Memory) == 5
            && BinaryPrimitives.ReadUInt64LittleEndian(pair.B.Memory[64..]) == 21
            ? null : "the sum is wrong";
    }

    private static string? Refused(RxePair pair, Action post)
    {
        post();
        pair.Expect("A");
        return pair.B.Memory.ContainsAnyExcept((byte)0) ? "a refused request changed memory" : null;
    }

    private static string? ReceiveTooSmall(RxePair pair)
    {
        pair.Receive(32);
        pair.Send(64);
        pair.Expect("AB");
        return null;
    }
}
