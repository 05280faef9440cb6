using Wayleave.Core;
using Wayleave.Devices.Link;
using Wayleave.Linux;

namespace Wayleave.Host.Runners;

/// <summary>
/// What a NIC's frames travel by: each frame with a virtio header in front, little endian. Reading and writing by
/// whoever holds the port token; waiting by one thread at a time; waking by any.
/// </summary>
public interface IFrameLink : IDisposable
{
    /// <summary>For people: an interface, a peer.</summary>
    string Name { get; }

    /// <summary>Reads one frame with its header. Never blocks.</summary>
    /// <returns><see cref="Errno.EAGAIN"/> when nothing is there; others when the link is down or gone.</returns>
    Errno TryRead(Span<byte> buffer, out int lengthBytes);

    /// <summary>Sends one frame with its header; copied. Never blocks.</summary>
    /// <returns>
    /// <see cref="Errno.EAGAIN"/> or <see cref="Errno.ENOBUFS"/> when there is no room; with any other the frame is
    /// lost.
    /// </returns>
    Errno TryWrite(ReadOnlySpan<byte> frame);

    /// <summary>Sleeps until a frame is there or a wake; false when the time was up.</summary>
    bool Wait(TimeSpan timeout);

    /// <summary>As <see cref="Wait"/>, and also until there is room to send.</summary>
    bool WaitForSendRoom(TimeSpan timeout);

    /// <summary>Sleeps until a wake; false when the time was up.</summary>
    bool WaitForWake(TimeSpan timeout);

    /// <summary>Ends the present sleep, or the next one.</summary>
    void Wake();
}

/// <summary>
/// A link that chooses by flow which queue a frame comes by, before anybody has read it. Queue 0 brings what is not
/// steered. By whoever holds the port token.
/// </summary>
public interface ISteeredLink : IFrameLink
{
    /// <summary>Queues beside queue 0; perhaps none.</summary>
    int SteeredQueues { get; }

    /// <summary>Why there are none; null when there are, or when nobody asked for any.</summary>
    string? WhyNotSteered { get; }

    /// <summary>From now on frames come by these queues; frames that wait in a queue stay there.</summary>
    /// <param name="destination">Frames to other addresses come by queue 0.</param>
    /// <param name="flows">The first that matches decides; at most <see cref="TapDevice.FlowsMax"/>.</param>
    /// <returns>Whatever stands against it: then all is as before.</returns>
    Errno Steer(MacAddress destination, ReadOnlySpan<TapFlow> flows);

    /// <summary>As <see cref="IFrameLink.TryRead"/>, from one queue.</summary>
    Errno TryRead(int queue, Span<byte> buffer, out int lengthBytes);

    /// <summary>Reads one frame of a queue with its header into several pieces. Never blocks.</summary>
    Errno TryRead(int queue, ScatterList pieces, out int lengthBytes);
}

/// <summary>A TAP device as the link of a NIC. Owns it.</summary>
public sealed class TapLink(TapDevice device) : ISteeredLink
{
    public string Name => device.Name;

    public int SteeredQueues => device.SteeredQueues;

    public string? WhyNotSteered => device.WhyNotSteered;

    public Errno Steer(MacAddress destination, ReadOnlySpan<TapFlow> flows) =>
        device.Steer(destination.Value, flows);

    public Errno TryRead(Span<byte> buffer, out int lengthBytes) => device.TryRead(buffer, out lengthBytes);

    public Errno TryRead(int queue, Span<byte> buffer, out int lengthBytes) =>
        device.TryRead(queue, buffer, out lengthBytes);

    public Errno TryRead(int queue, ScatterList pieces, out int lengthBytes) =>
        device.TryRead(queue, pieces, out lengthBytes);

    public Errno TryWrite(ReadOnlySpan<byte> frame) => device.TryWrite(frame);

    public bool Wait(TimeSpan timeout) => device.Wait(timeout);

    public bool WaitForSendRoom(TimeSpan timeout) => device.WaitForSendRoom(timeout);

    public bool WaitForWake(TimeSpan timeout) => device.WaitForWake(timeout);

    public void Wake() => device.Wake();

    public void Dispose() => device.Dispose();
}
