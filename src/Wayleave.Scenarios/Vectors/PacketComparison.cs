using System.Globalization;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Scenarios.Vectors;

/// <summary>A field in which two packets differ, with both values as text.</summary>
internal sealed record FieldDifference(string Field, string Expected, string Got);

/// <summary>Compares packets from the BTH to the pad, field by field, in the order of the wire.</summary>
internal static class PacketComparison
{
    /// <summary>The first difference, or null. The ICRC is not looked at.</summary>
    public static FieldDifference? FirstDifference(ReadOnlySpan<byte> expected, ReadOnlySpan<byte> got)
    {
        DropReason expectedReason = PacketView.TryParse(expected, out PacketView expectedView);
        DropReason gotReason = PacketView.TryParse(got, out PacketView gotView);
        if (expectedReason != DropReason.None || gotReason != DropReason.None)
        {
            return new FieldDifference("headers", Word(expectedReason), Word(gotReason));
        }

        return OfBth(expectedView.Bth, gotView.Bth)
            ?? OfExtensions(expectedView, gotView)
            ?? Number("payload_len", expectedView.PayloadBytes, gotView.PayloadBytes)
            ?? OfBytes("payload", expectedView.Payload, gotView.Payload)
            ?? OfBytes("pad byte", Pad(expected, expectedView), Pad(got, gotView));
    }

    private static FieldDifference? OfBth(in Bth expected, in Bth got) =>
        Text("opcode", OpcodeTraits.NameOf(expected.Opcode), OpcodeTraits.NameOf(got.Opcode))
        ?? Hex("psn", expected.Psn, got.Psn, 6)
        ?? Number("dest_qpn", expected.DestQp, got.DestQp)
        ?? Flag("ackreq", expected.AckRequest, got.AckRequest)
        ?? Flag("se", expected.Solicited, got.Solicited)
        ?? Flag("mig", expected.MigrationRequest, got.MigrationRequest)
        ?? Number("pad", expected.PadCount, got.PadCount)
        ?? Hex("p_key", expected.PKey, got.PKey, 4)
        ?? Number("tver", expected.Version, got.Version)
        ?? Hex("fecn_becn_resv6", expected.CongestionByte, got.CongestionByte, 2)
        ?? Hex("resv7", (uint)expected.Reserved7, (uint)got.Reserved7, 2);

    // The opcodes are equal by now, so both packets have the same headers.
    private static FieldDifference? OfExtensions(in PacketView expected, in PacketView got)
    {
        OpcodeTraits traits = expected.Traits;
        FieldDifference? difference = null;
        if (traits.Has(ExtensionHeaders.Reth))
        {
            (Reth e, Reth g) = (expected.Reth, got.Reth);
            difference = Hex("reth.va", e.Va, g.Va, 1)
                ?? Hex("reth.rkey", e.RKey, g.RKey, 8)
                ?? Number("reth.length", e.Length, g.Length);
        }

        if (difference is null && traits.Has(ExtensionHeaders.Deth))
        {
            (Deth e, Deth g) = (expected.Deth, got.Deth);
            difference = Hex("deth.q_key", e.QKey, g.QKey, 8) ?? Number("deth.src_qpn", e.SourceQp, g.SourceQp);
        }

        if (difference is null && traits.Has(ExtensionHeaders.Aeth))
        {
            (Aeth e, Aeth g) = (expected.Aeth, got.Aeth);
            difference = Hex("aeth.syndrome", e.Syndrome, g.Syndrome, 2) ?? Number("aeth.msn", e.Msn, g.Msn);
        }

        if (difference is null && traits.Has(ExtensionHeaders.ImmDt))
        {
            difference = Hex("immdt", expected.Immediate, got.Immediate, 8);
        }

        return difference;
    }

    private static FieldDifference? OfBytes(string field, ReadOnlySpan<byte> expected, ReadOnlySpan<byte> got)
    {
        int at = expected.CommonPrefixLength(got);
        return at == expected.Length && at == got.Length
            ? null
            : Hex($"{field}[{at}]", expected[at], got[at], 2);
    }

    private static ReadOnlySpan<byte> Pad(ReadOnlySpan<byte> bytes, in PacketView view) =>
        bytes.Slice(view.Traits.HeaderBytes + view.PayloadBytes, view.PadCount);

    private static string Word(DropReason reason) => reason == DropReason.None ? "whole" : reason.ToString();

    private static FieldDifference? Flag(string field, bool expected, bool got) =>
        Text(field, expected ? "1" : "0", got ? "1" : "0");

    private static FieldDifference? Number(string field, long expected, long got) =>
        Text(field, $"{expected}", $"{got}");

    private static FieldDifference? Hex(string field, ulong expected, ulong got, int digits) =>
        Text(field, Format(expected, digits), Format(got, digits));

    private static string Format(ulong value, int digits) =>
        "0x" + value.ToString($"x{digits}", CultureInfo.InvariantCulture);

    private static FieldDifference? Text(string field, string expected, string got) =>
        expected == got ? null : new FieldDifference(field, expected, got);
}
