using System.Globalization;
using System.Text;

namespace Wayleave.Core.Buffers;

/// <summary>
/// One line of the list of a host's buffers, with its users (<c>/sys/kernel/debug/dma_buf/bufinfo</c>, and the
/// <c>fdinfo</c> of a handle). A value: it does not change after it was taken.
/// </summary>
/// <param name="Id">Unique in the host.</param>
/// <param name="Name">As it was set last.</param>
/// <param name="Exporter">Whose memory.</param>
/// <param name="Storage">What the exporter may do with it.</param>
/// <param name="SizeBytes">Fixed for life.</param>
/// <param name="References">Who keeps it alive.</param>
/// <param name="IsRevoked">Taken back.</param>
/// <param name="Users">Attachments, then mappings by processors, each in the order they came.</param>
/// <param name="Fences">One line per fence of its reservation.</param>
public sealed record BufferInfo(
    ulong Id,
    string Name,
    string Exporter,
    StorageKind Storage,
    ulong SizeBytes,
    int References,
    bool IsRevoked,
    IReadOnlyList<BufferUserInfo> Users,
    IReadOnlyList<string> Fences)
{
    /// <summary>Every buffer of a host that is not released, oldest first. Host lock held by the caller.</summary>
    public static IReadOnlyList<BufferInfo> Collect(HostContext host)
    {
        host.AssertHeld();
        return [.. host.Buffers.Select(Of)];
    }

    /// <summary>One buffer. Host lock held by the caller.</summary>
    public static BufferInfo Of(SharedBuffer buffer)
    {
        buffer.Host.AssertHeld();
        return new BufferInfo(
            buffer.Id,
            buffer.Name,
            buffer.Exporter.Name,
            buffer.Exporter.Storage,
            buffer.SizeBytes,
            buffer.ReferenceCount,
            buffer.IsRevoked,
            [
                .. buffer.Attachments.Select(a =>
                    new BufferUserInfo(a.Name, a.Device.Name, a.Holder, a.Kind, a.State, a.PinCount)),
                .. buffer.CpuMappings.Select(m => new BufferUserInfo(
                    ((IMemoryHold)m).Name, "cpu", m.Holder, ImporterKind.Pinned, MappingState.Mapped, PinCount: 1)),
            ],
            [.. buffer.Reservation.Describe()]);
    }

    /// <summary>The list as a person reads it: one line a buffer, its fences and users indented below.</summary>
    public static string Format(IReadOnlyList<BufferInfo> buffers)
    {
        StringBuilder text = new();
        ulong bytes = 0;
        text.Append("    size         count  exporter              id        storage    name\n");
        foreach (BufferInfo b in buffers)
        {
            bytes += b.SizeBytes;
            text.Append(CultureInfo.InvariantCulture, $"    {b.SizeBytes,-12} {b.References,-6} ");
            text.Append(CultureInfo.InvariantCulture, $"{Clean(b.Exporter),-21} {b.Id,-9} {b.Storage,-10} ");
            text.Append(Clean(b.Name));
            text.Append(b.IsRevoked ? " (revoked)\n" : "\n");
            foreach (string fence in b.Fences)
            {
                text.Append("        fence: ").Append(Clean(fence)).Append('\n');
            }

            foreach (BufferUserInfo u in b.Users)
            {
                text.Append(CultureInfo.InvariantCulture, $"        {u.Device}: {Clean(u.Name)}, {u.Kind}, {u.State}");
                text.Append(CultureInfo.InvariantCulture, $"{(u.PinCount > 0 ? $", {u.PinCount} pins" : "")}\n");
            }
        }

        text.Append(CultureInfo.InvariantCulture, $"total {buffers.Count} buffers, {bytes} bytes\n");
        return text.ToString();
    }

    // A name is a user's: it must not look like another line.
    private static string Clean(string name) => string.Concat(name.Select(c => char.IsControl(c) ? '?' : c));
}

/// <summary>One user of a buffer in the list of buffers.</summary>
/// <param name="Name">Importer, or mapping.</param>
/// <param name="Device">Whose addresses it uses; <c>cpu</c> for a processor's mapping.</param>
/// <param name="Holder">On whose behalf.</param>
/// <param name="Kind">How it holds on to the memory.</param>
/// <param name="State">Of its mapping.</param>
/// <param name="PinCount">Pins it holds.</param>
public sealed record BufferUserInfo(
    string Name, string Device, string Holder, ImporterKind Kind, MappingState State, int PinCount);
