namespace Wayleave.Devices.Ethernet;

/// <summary><c>tcp-data-split</c> of <c>ethtool -G</c>.</summary>
public enum HeaderSplitMode
{
    /// <summary>The device does as it likes, which is not to split.</summary>
    Unknown,

    Off,

    On,
}

/// <summary>
/// Whether and when payload goes elsewhere than headers (<c>ethtool -G tcp-data-split, hds-thresh</c>).
/// </summary>
/// <param name="Mode">Only On makes a queue fit for a binding.</param>
/// <param name="ThresholdBytes">Frames that are not longer stay whole; 0 splits every payload.</param>
public readonly record struct HeaderSplit(HeaderSplitMode Mode, int ThresholdBytes);
